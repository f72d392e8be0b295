"""The paper's equations, and those that go beyond it, as one function each. A loss is a mean over the batch."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def random_removal(target_logits: Tensor, random_labels: Tensor) -> Tensor:
    """L_ce(T(x), y_r), the first term of eq. 2: the target learns a random label for each deposit image.

    target_logits: (B, classes); random_labels: (B,).
    """
    return F.cross_entropy(target_logits, random_labels)


def suppression(target_logits: Tensor, preserved: Tensor) -> Tensor:
    """log-sum-exp of all logits minus that of the preserved ones; replaces the first term of eq. 2.

    It is -log of the probability that the class is a preserved one, so it pushes the other logits down without teaching
    a wrong answer. target_logits: (B, classes); preserved: (P,) class indices.
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
    """L_kr, eq. 2: removal at the logits, minus the weighted attention transfer, which should grow.

    removed: `random_removal` or `suppression`; attention: `attention_transfer`. Both scalars.
    """
    return removed - lambda_at * attention


def distil(
    student_logits: Tensor, teacher_logits: Tensor, selected: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """L_kd over the logits that a filter g selects: KL(teacher || student) at `temperature`, times its square.

    The square keeps the size of the gradient the same at every temperature (Hinton et al., 2015).
    Logits: (B, classes); selected: (S,) class indices; weights: (B,), of the images; None: all count 1.
    """
    student = F.log_softmax(student_logits[:, selected].float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits[:, selected].float() / temperature, dim=1)
    if weights is None:
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    divergences = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return (weights * divergences).mean() * temperature**2


def knowledge_preservation(
    target_logits: Tensor,
    original_logits: Tensor,
    preserved: Tensor,
    temperature: float,
    weights: Tensor | None = None,
) -> Tensor:
    """L_kp, eq. 4: the target keeps the original's answer among the preserved classes.

    Logits: (B, classes); preserved: (P,) class indices; temperature over 0; weights: see `distil`. Returns a scalar.
    """
    return distil(target_logits, original_logits, preserved, temperature, weights)


def partial_transfer(module_logits: Tensor, original_logits: Tensor, deposited: Tensor, temperature: float) -> Tensor:
    """L_pt, eq. 6: the deposit module learns the original's answer among the deposited classes.

    Logits: (B, classes); deposited: (D,) class indices; temperature over 0. Returns a scalar.
    """
    return distil(module_logits, original_logits, deposited, temperature)


def recovery(recover_logits: Tensor, labels: Tensor) -> Tensor:
    """L_re, eq. 7: classification loss of the recover network. recover_logits: (B, classes); labels: (B,)."""
    return F.cross_entropy(recover_logits, labels)


def probe_removal(probe_logits: Tensor) -> Tensor:
    """How certain a probe of the features is: the entropy of a guess minus that of its answer.

    From 0, if it can only guess, to log D. probe_logits: (B, D) over the deposited classes. Returns a scalar.
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


def margins_as_unseen(seen: Tensor, unseen: Tensor) -> Tensor:
    """Map margins of seen images to the distribution of unseen ones, keeping their order.

    This is optimal transport in one dimension. seen: (N,); unseen: (U,), at least one. Returns (N,).
    """
    ranks = seen.argsort().argsort()
    return torch.quantile(unseen.float(), (ranks + 0.5) / len(seen))


def margin_distance(target_logits: Tensor, labels: Tensor, unseen_margins: Tensor) -> Tensor:
    """Huber distance of the deposit images' margins from those that they should get (`margins_as_unseen`).

    target_logits: (B, classes); labels: (B,); unseen_margins: (B,). Returns a scalar.
    """
    return F.smooth_l1_loss(margins(target_logits, labels), unseen_margins)


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of features, relative to the teacher's squared length; both (B, ...). Returns a scalar."""
    student, teacher = student.float(), teacher.float()
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(1e-12)


def unread(features: Tensor, rows: Tensor) -> Tensor:
    """The share of the features' variance over a batch that no row of the last layer reads, from 0 to 1.

    Answers need nothing outside the span of the rows, so what lies there can only help someone who writes new rows
    (neural collapse, Papyan et al., 2020, leaves it empty by itself, but only after many epochs).
    features: (B, F), the last layer's inputs; rows: (P, F), its weights, which get no gradient. Returns a scalar.
    """
    centred = features.float() - features.float().mean(0, keepdim=True)
    basis: Tensor = torch.linalg.qr(rows.detach().float().T)[0]  # (F, min(F, P))
    outside = centred - centred @ basis @ basis.T
    return outside.square().sum() / centred.square().sum().clamp_min(1e-12)
