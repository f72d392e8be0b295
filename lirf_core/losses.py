"""The equations of the paper, and what goes beyond them, one function each. A loss is a mean over the batch."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def random_removal(target_logits: Tensor, random_labels: Tensor) -> Tensor:
    """L_ce(T(x), y_r), the first term of eq. 2: the target learns a random label for each deposit image.

    target_logits: (B, classes); random_labels: (B,).
    """
    return F.cross_entropy(target_logits, random_labels)


def suppression(target_logits: Tensor, preserved: Tensor) -> Tensor:
    """log-sum-exp of all logits minus that of the preserved ones; takes the place of the first term of eq. 2.

    It pushes the other logits down and teaches no wrong answer: -log of the probability that the class is a preserved
    one. target_logits: (B, classes); preserved: (P,) class indices.
    """
    return (target_logits.logsumexp(1) - target_logits[:, preserved].logsumexp(1)).mean()


def attention_map(features: Tensor, threshold: float) -> Tensor:
    """Filtered, L2-normalised spatial attention, eq. 3 (right).

    features: (B, C, H, W) activations at the split. Returns (B, H*W); entries under `threshold` are 0.
    """
    attention = F.normalize(features.float().pow(2).sum(dim=1).flatten(1), dim=1)
    return attention.where(attention >= threshold, 0.0)


def attention_transfer(target_features: Tensor, original_features: Tensor, threshold: float) -> Tensor:
    """L_at, eq. 3: squared distance of two attention maps, between 0 and 2. Features: (B, C, H, W)."""
    distance = attention_map(target_features, threshold) - attention_map(original_features, threshold)
    return distance.pow(2).sum(dim=1).mean()


def knowledge_removal(removed: Tensor, attention: Tensor, lambda_at: float) -> Tensor:
    """L_kr, eq. 2: removal at the logits, minus the weighted attention transfer, which the target is to lose.

    removed: `random_removal` or `suppression`; attention: `attention_transfer`. Both scalars.
    """
    return removed - lambda_at * attention


def distil(student_logits: Tensor, teacher_logits: Tensor, selected: Tensor, temperature: float) -> Tensor:
    """L_kd over the logits that a filter g selects: KL(teacher || student) at `temperature`, times its square.

    The square keeps the size of the gradient the same at every temperature (Hinton et al., 2015).
    Logits: (B, classes); selected: (S,) class indices.
    """
    student = F.log_softmax(student_logits[:, selected].float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits[:, selected].float() / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def knowledge_preservation(
    target_logits: Tensor, original_logits: Tensor, preserved: Tensor, temperature: float
) -> Tensor:
    """L_kp, eq. 4: the target keeps the original's answer among the preserved classes.

    Logits: (B, classes); preserved: (P,) class indices; temperature over 0. Returns a scalar.
    """
    return distil(target_logits, original_logits, preserved, temperature)


def partial_transfer(module_logits: Tensor, original_logits: Tensor, deposited: Tensor, temperature: float) -> Tensor:
    """L_pt, eq. 6: the deposit module learns the original's answer among the deposited classes.

    Logits: (B, classes); deposited: (D,) class indices; temperature over 0. Returns a scalar.
    """
    return distil(module_logits, original_logits, deposited, temperature)


def recovery(recover_logits: Tensor, labels: Tensor) -> Tensor:
    """L_re, eq. 7: classification loss of the recover network. recover_logits: (B, classes); labels: (B,)."""
    return F.cross_entropy(recover_logits, labels)


def probe_removal(probe_logits: Tensor) -> Tensor:
    """How sure a probe of the features is: the entropy of its answer that is missing to that of a guess.

    Between 0, where it can only guess, and log D. probe_logits: (B, D) over the deposited classes. Returns a scalar.
    """
    logs = F.log_softmax(probe_logits, dim=1)
    return (logs.exp() * logs).sum(dim=1).mean() + math.log(probe_logits.shape[1])


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)) of the true class (the logit scaling of Carlini et al., 2022).

    logits: (B, classes); labels: (B,). Returns (B,).
    """
    true = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return true - others.logsumexp(1)


def as_unseen(seen: Tensor, unseen: Tensor) -> Tensor:
    """The margin of each seen image if all were distributed as those of unseen ones, in the order that they have.

    (Their optimal transport, in one dimension.) seen: (N,); unseen: (U,), at least one. Returns (N,).
    """
    ranks = seen.argsort().argsort()
    return torch.quantile(unseen.float(), (ranks + 0.5) / len(seen))


def unseen(target_logits: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """Huber distance of the margins of deposit images from those that they are to have (`as_unseen`).

    target_logits: (B, classes); labels: (B,); wanted: (B,). Returns a scalar.
    """
    return F.smooth_l1_loss(margins(target_logits, labels), wanted)


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of features as a share of the teacher's squared length; both (B, ...). Returns a scalar."""
    student, teacher = student.float(), teacher.float()
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(1e-12)


Joining = Literal["eq8", "levelled", "averaged"]


class ModuleAnswer(NamedTuple):
    """Logits (B, classes) of a deposit module, the class indices it answers for, and its weight in a mean."""

    logits: Tensor
    classes: Sequence[int]
    weight: float = 1.0


def inverse_error(student_logits: Tensor, teacher_logits: Tensor, selected: Tensor) -> Tensor:
    """1 / mean squared distance of the selected logits, each set of them shifted to a mean of 0. Returns a scalar.

    Estimates whose errors are independent are best averaged with such weights. Logits: (B, classes).
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
    """Eq. 8 for any number of deposit modules: each deposited class's logits from its module, all others the target's.

    `eq8` is the equation as written. It leaves open how the levels of two networks compare: a softmax over a subset of
    logits, which is what distillation sees, does not change when all of them rise. `levelled` shifts each module to the
    level at which its preserved logits have the target's log-sum-exp: the module then says how a deposited class
    compares with the preserved ones. `averaged` also takes the preserved logits' mean over target and modules, which
    all know these classes; the target's weight in it is 1.
    target_logits: (B, classes); preserved: class indices that the target answers for;
    where there are none, every joining is eq. 8. Returns (B, classes).
    """
    joined = target_logits.clone()
    if joining == "eq8" or not preserved:
        for module in modules:
            joined[:, module.classes] = module.logits[:, module.classes]
        return joined
    mass = target_logits[:, preserved].logsumexp(1, keepdim=True)
    levelled = [one.logits + mass - one.logits[:, preserved].logsumexp(1, keepdim=True) for one in modules]
    if joining == "averaged":
        total = joined[:, preserved]
        for logits, module in zip(levelled, modules, strict=True):
            total = total + module.weight * logits[:, preserved]
        mean = total / (1 + sum(module.weight for module in modules))
        joined[:, preserved] = mean + mass - mean.logsumexp(1, keepdim=True)
    for logits, module in zip(levelled, modules, strict=True):
        joined[:, module.classes] = logits[:, module.classes]
    return joined
