"""How networks answer held-out images: how many correctly, what else they answer, and how confidently."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lirf_core.evidence.intervals import interval

BINS = 20


class CannotBeMeasured(ValueError):
    """The networks or the images do not allow this measurement. The message says why."""


@dataclass(frozen=True)
class Share:
    """A percentage of `images`, with its 95 % interval from `low` to `high` (Wilson, 1927)."""

    percent: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Shares:
    """The shares of images that were answered correctly, of the preserved and of the deposited classes."""

    preserved: Share | None
    deposited: Share | None


@dataclass(frozen=True)
class AnswerSummary:
    """One network's answers, by argmax over all raw logits.

    `by_class`: the share of correct answers. `confusion`: for each deposited class, how many of its images were
    answered as each class. `confidences`: for `preserved` and `deposited`, how many images have their highest
    probability in each twentieth of the range from 0 to 1. The other keys are class names.
    """

    preserved: Share | None
    deposited: Share | None
    by_class: dict[str, Share]
    confusion: dict[str, dict[str, int]]
    confidences: dict[str, list[int]]


def share(is_correct: Tensor) -> Share | None:
    """is_correct: (N,), bool. None if there is no image."""
    images = len(is_correct)
    if not images:
        return None
    percent = 100 * is_correct.double().mean().item()
    low, high = interval(percent, images)
    return Share(round(percent, 4), round(low, 4), round(high, 4), images)


def shares(is_correct: Tensor, labels: Tensor, deposited: Sequence[int]) -> Shares:
    """is_correct: (N,), bool; labels: (N,); deposited: class indices."""
    is_deposited = torch.isin(labels, torch.tensor(sorted(deposited), dtype=labels.dtype))
    return Shares(share(is_correct[~is_deposited]), share(is_correct[is_deposited]))


def summarise(logits: Tensor, labels: Tensor, deposited: Sequence[int], classes: Sequence[str]) -> AnswerSummary:
    """logits: (N, classes), raw; labels: (N,); classes: a name for each output.

    Raises `CannotBeMeasured` if a logit is not finite: such a network would seem to have forgotten everything.
    """
    require_finite(logits)
    answers = logits.argmax(1)
    is_correct = answers == labels
    by_part = shares(is_correct, labels, deposited)
    is_deposited = torch.isin(labels, torch.tensor(sorted(deposited), dtype=labels.dtype))
    confidence = logits.softmax(1).amax(1)
    by_class = {name: share(is_correct[labels == index]) for index, name in enumerate(classes)}
    return AnswerSummary(
        by_part.preserved,
        by_part.deposited,
        {name: class_share for name, class_share in by_class.items() if class_share},
        {classes[index]: _counts(answers[labels == index], classes) for index in sorted(deposited)},
        {"preserved": _histogram(confidence[~is_deposited]), "deposited": _histogram(confidence[is_deposited])},
    )


def require_finite(values: Tensor) -> None:
    """Raises `CannotBeMeasured`."""
    if not torch.isfinite(values).all():
        raise CannotBeMeasured("A network's answers are not finite numbers.")


def _counts(answers: Tensor, classes: Sequence[str]) -> dict[str, int]:
    """The most frequent answers first."""
    counts = answers.bincount(minlength=len(classes))
    return {classes[i]: int(counts[i]) for i in counts.argsort(descending=True, stable=True) if counts[i]}


def _histogram(confidence: Tensor) -> list[int]:
    return [int(count) for count in torch.histc(confidence, BINS, 0.0, 1.0)]
