"""The losses of the paper, one function an equation. Each is a mean over the batch."""

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


def recover_logits(target_logits: Tensor, module_logits: Tensor, deposited: Tensor) -> Tensor:
    """Eq. 8: preserved logits of the target, deposited logits of the module.

    Logits: (B, classes); deposited: (D,) class indices. Returns (B, classes).
    """
    is_deposited = torch.zeros(target_logits.shape[1], dtype=torch.bool, device=target_logits.device)
    is_deposited[deposited] = True
    return module_logits.where(is_deposited, target_logits)
