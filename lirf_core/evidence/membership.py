"""Membership inference: can it be told from a network's answers whether an image was in its training set?

The attack thresholds the margin of the true class (the logit scaling of Carlini et al., Membership Inference Attacks
From First Principles, 2022). An area under the curve of 0.5 is a guess; images that were forgotten should be there, or
where images of the same kind are that the network never saw.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lirf_core.evidence.answers import demand_finite


@dataclass(frozen=True)
class Attack:
    """`auc`: probability that a member's margin is over a stranger's; `error`: its standard error."""

    auc: float
    error: float


def attack(members: Tensor, strangers: Tensor) -> Attack:
    """members, strangers: `losses.margins` (M,) and (S,), at least one each.

    The error is that of Hanley and McNeil (1982), of an area that is drawn towards a half by one image's worth: else
    one of 0 or 1 had none. Raises `CannotBeMeasured` where a margin is not finite.
    """
    both = torch.cat([members, strangers]).double()
    demand_finite(both)
    _, rank_of, counts = torch.unique(both, return_inverse=True, return_counts=True)
    mean_ranks = counts.cumsum(0).double() - (counts.double() - 1) / 2  # ties share their mean rank
    m, s = len(members), len(strangers)
    auc = ((mean_ranks[rank_of[:m]].sum() - m * (m + 1) / 2) / (m * s)).item()
    fewer = min(m, s)
    near = (auc * fewer + 0.5) / (fewer + 1)
    q1, q2 = near / (2 - near), 2 * near**2 / (1 + near)
    variance = (near * (1 - near) + (m - 1) * (q1 - near**2) + (s - 1) * (q2 - near**2)) / (m * s)
    return Attack(auc, math.sqrt(variance))
