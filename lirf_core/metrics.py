"""Accuracy and forgetting, always from raw logits: masking a class is not forgetting it (paper, section 5.1)."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.tally import Tally


@dataclass(frozen=True)
class Accuracy:
    """Percentage of images answered correctly, by argmax over all logits. None if there was no such image."""

    preserved: float | None
    deposited: float | None
    average: float | None
    by_class: tuple[float | None, ...]


def tally(logits: Tensor, labels: Tensor) -> Tally:
    """logits: (N, classes), raw; labels: (N,)."""
    classes = logits.shape[1]
    right = labels[logits.argmax(1) == labels]
    return Tally(*(tuple(of.bincount(minlength=classes).tolist()) for of in (right, labels)))


@torch.inference_mode()
def logits_of(
    network: nn.Module,
    images: Tensor,
    preprocessing: Preprocessing,
    compute: Compute,
    on_batch: Callable[[], None] = lambda: None,
    batch: int = 128,
) -> Tensor:
    """images: uint8 (N, C, H, W). Returns float32 logits (N, classes) on the CPU.

    `on_batch` is called after each batch and can raise an exception to stop the run.
    """
    network.eval()
    answers = []
    for chunk in torch.split(images, batch):
        with compute.autocast():
            answers.append(network(compute.inputs(chunk, preprocessing)).float().cpu())
        on_batch()
    return torch.cat(answers)


def accuracy(logits: Tensor, labels: Tensor, deposited: Collection[int]) -> Accuracy:
    """logits: (N, classes), raw; labels: (N,); deposited: the class indices that count as deposited."""
    is_correct = logits.argmax(1) == labels
    is_deposited = torch.isin(labels, torch.tensor(sorted(deposited), dtype=labels.dtype))
    return Accuracy(
        preserved=_percent(is_correct[~is_deposited]),
        deposited=_percent(is_correct[is_deposited]),
        average=_percent(is_correct),
        by_class=tuple(_percent(is_correct[labels == index]) for index in range(logits.shape[1])),
    )


def forgetting(deposited_before: float, deposited_after: float) -> float:
    """F: the drop of the deposited accuracy from the original to the target network, in points."""
    return deposited_before - deposited_after


def h_mean(preserved: float, forgotten: float) -> float:
    """H Mean of the target's preserved accuracy and F, in percent (section 5.1); 0 if nothing was forgotten."""
    return 2 * preserved * forgotten / (preserved + forgotten) if preserved > 0 and forgotten > 0 else 0.0


def _percent(is_correct: Tensor) -> float | None:
    return round(100.0 * is_correct.float().mean().item(), 4) if len(is_correct) else None
