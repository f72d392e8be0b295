"""What networks answer to held-out images: how many rightly, what instead, and how surely."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lirf_core.evidence.intervals import interval

BINS = 20


class CannotBeMeasured(ValueError):
    """A network, or the images, allow no such figure; the message says why."""


@dataclass(frozen=True)
class Share:
    """Percent of so many images, and the 95 % interval of it (Wilson, 1927)."""

    percent: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Answered:
    """One network's answers by argmax over all raw logits.

    `confusion`: of each deposited class, how many of its images were answered as what; `confidences`: of how many
    images the highest probability lies in each twentieth between 0 and 1. Keys are class names, and `preserved` and
    `deposited`.
    """

    preserved: Share | None
    deposited: Share | None
    by_class: dict[str, Share]
    confusion: dict[str, dict[str, int]]
    confidences: dict[str, list[int]]


def share(is_right: Tensor) -> Share | None:
    """is_right: (N,) of bool. None where there is no image."""
    images = len(is_right)
    if not images:
        return None
    percent = 100 * is_right.double().mean().item()
    low, high = interval(percent, images)
    return Share(round(percent, 4), round(low, 4), round(high, 4), images)


def shares(right: Tensor, labels: Tensor, deposited: Sequence[int]) -> tuple[Share | None, Share | None]:
    """Of the preserved and of the deposited classes. right: (N,) of bool; labels: (N,)."""
    is_deposited = torch.isin(labels, torch.tensor(sorted(deposited), dtype=labels.dtype))
    return share(right[~is_deposited]), share(right[is_deposited])


def answered(logits: Tensor, labels: Tensor, deposited: Sequence[int], classes: Sequence[str]) -> Answered:
    """logits: (N, classes), raw; labels: (N,); classes: a name for each output.

    Raises `CannotBeMeasured` where a logit is not finite: such a network would seem to have forgotten everything.
    """
    demand_finite(logits)
    found = logits.argmax(1)
    is_right = found == labels
    preserved_share, deposited_share = shares(is_right, labels, deposited)
    is_deposited = torch.isin(labels, torch.tensor(sorted(deposited), dtype=labels.dtype))
    confidence = logits.softmax(1).amax(1)
    by_class = {name: share(is_right[labels == index]) for index, name in enumerate(classes)}
    return Answered(
        preserved_share,
        deposited_share,
        {name: of for name, of in by_class.items() if of},
        {classes[index]: _counts(found[labels == index], classes) for index in sorted(deposited)},
        {"preserved": _histogram(confidence[~is_deposited]), "deposited": _histogram(confidence[is_deposited])},
    )


def demand_finite(found: Tensor) -> None:
    """Raises `CannotBeMeasured`."""
    if not torch.isfinite(found).all():
        raise CannotBeMeasured("a network answers with what is no finite number.")


def _counts(found: Tensor, classes: Sequence[str]) -> dict[str, int]:
    """The most frequent first."""
    counts = found.bincount(minlength=len(classes))
    return {classes[i]: int(counts[i]) for i in counts.argsort(descending=True, stable=True) if counts[i]}


def _histogram(confidence: Tensor) -> list[int]:
    return [int(count) for count in torch.histc(confidence, BINS, 0.0, 1.0)]
