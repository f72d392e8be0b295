"""How logits of a target and of deposit modules become a recover network's: eq. 8, and what goes beyond it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lirf_core.config import Joining


class ModuleAnswer(NamedTuple):
    """A deposit module's logits (B, classes), the class indices that it answers for, and its weight in a mean.

    known: the class indices that it has learnt to tell apart; None: its own and the preserved ones only.
    """

    logits: Tensor
    classes: Sequence[int]
    weight: float = 1.0
    known: Sequence[int] | None = None


def inverse_error(student_logits: Tensor, teacher_logits: Tensor, selected: Tensor) -> Tensor:
    """1 / mean squared distance of the selected logits, each row shifted to a mean of 0. Returns a scalar.

    The best weights for averaging estimates with independent errors. Logits: (B, classes).
    """
    student, teacher = student_logits[:, selected], teacher_logits[:, selected]
    error = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    return 1 / error.square().mean().clamp_min(1e-6)


def join(
    target_logits: Tensor,
    modules: Sequence[ModuleAnswer],
    preserved: Sequence[int],
    joining: Joining,
) -> Tensor:
    """Eq. 8 for any number of deposit modules: deposited logits from their modules, all others from the target.

    `eq8` is the equation as written. It does not say how the logits of two networks compare: distillation sees a
    softmax over some of the logits, which stays the same when all of them rise. `levelled` shifts each module's logits
    until its preserved logits have the target's log-sum-exp, so that deposited and preserved classes can be compared.
    `averaged` also replaces each logit by its weighted mean over all parts that know its class: a preserved one's over
    the target (weight 1) and the modules, a deposited one's over its own module and those of other deposits.
    target_logits: (B, classes); preserved: the class indices that the target answers for. If there are none, every
    joining is eq. 8 as written. Returns (B, classes).
    """
    joined = target_logits.clone()
    if joining == "eq8" or not preserved:
        for module in modules:
            joined[:, module.classes] = module.logits[:, module.classes]
        return joined
    kept = _indices(tuple(preserved), joined.device)
    mass = target_logits[:, kept].logsumexp(1, keepdim=True)
    levelled = [module.logits + mass - module.logits[:, kept].logsumexp(1, keepdim=True) for module in modules]
    for logits, module in zip(levelled, modules, strict=True):
        joined[:, module.classes] = logits[:, module.classes]
    if joining == "averaged":
        deposited = _indices(tuple(index for module in modules for index in module.classes), joined.device)
        weights = [_weights(module, preserved, joined) for module in modules]
        total = torch.stack(weights).sum(0)
        mean, own = joined[:, kept], joined[:, deposited]
        others = torch.zeros_like(own)
        for logits, weight in zip(levelled, weights, strict=True):
            mean = mean + weight[kept].to(logits) * logits[:, kept]
            others = others + weight[deposited].to(logits) * (logits[:, deposited] - own)
        mean = mean / (1 + total[kept]).to(mean)
        joined[:, kept] = mean + mass - mean.logsumexp(1, keepdim=True)
        joined[:, deposited] = own + others / total[deposited].clamp_min(1e-9).to(own)
    return joined


def _weights(module: ModuleAnswer, preserved: Sequence[int], logits: Tensor) -> Tensor:
    """The module's weight for each class that it knows, 0 for the others. float64 (classes,)."""
    known = (*preserved, *module.classes) if module.known is None else tuple(module.known)
    weights = torch.zeros(logits.shape[1], dtype=torch.float64, device=logits.device)
    return weights.index_fill_(0, _indices(known, logits.device), module.weight)


@lru_cache(1024)
def _indices(classes: tuple[int, ...], device: torch.device) -> Tensor:
    """A tensor of them. To make one of a thousand classes takes longer than to join the logits of some images."""
    with torch.inference_mode(False):  # a training may use it later
        return torch.tensor(classes, dtype=torch.int64, device=device)
