"""How logits of a target and of deposit modules become a recover network's: eq. 8, and what goes beyond it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lirf_core.config import Joining


class ModuleAnswer(NamedTuple):
    """A deposit module's logits (B, classes), the class indices that it answers for, and its weight in a mean."""

    logits: Tensor
    classes: Sequence[int]
    weight: float = 1.0


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
    `averaged` also replaces the preserved logits by their weighted mean over the target (weight 1) and the modules, as
    all of them know these classes.
    target_logits: (B, classes); preserved: the class indices that the target answers for. If there are none, every
    joining is eq. 8 as written. Returns (B, classes).
    """
    joined = target_logits.clone()
    if joining == "eq8" or not preserved:
        for module in modules:
            joined[:, module.classes] = module.logits[:, module.classes]
        return joined
    mass = target_logits[:, preserved].logsumexp(1, keepdim=True)
    levelled = [module.logits + mass - module.logits[:, preserved].logsumexp(1, keepdim=True) for module in modules]
    if joining == "averaged":
        total = joined[:, preserved]
        for logits, module in zip(levelled, modules, strict=True):
            total = total + module.weight * logits[:, preserved]
        mean = total / (1 + sum(module.weight for module in modules))
        joined[:, preserved] = mean + mass - mean.logsumexp(1, keepdim=True)
    for logits, module in zip(levelled, modules, strict=True):
        joined[:, module.classes] = logits[:, module.classes]
    return joined
