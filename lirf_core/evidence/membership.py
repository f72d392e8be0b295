"""Membership inference: do a network's answers show whether an image was in its training set?

The attack thresholds the margin of the true class (the logit scaling of Carlini et al., Membership Inference Attacks
From First Principles, 2022). An area under the curve of 0.5 is a guess. Forgotten images should have that area, or the
area of similar images that the network never saw.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Attack:
    """`auc`: the probability that a member's margin is above a stranger's; `error`: its standard error."""

    auc: float
    error: float


def attack(members: "Tensor", strangers: "Tensor") -> Attack:
    """members, strangers: `losses.margins`, (M,) and (S,), at least one each.

    The error is Hanley and McNeil's (1982), for an area that is moved towards 0.5 by the weight of one image; otherwise
    an area of 0 or 1 would have no error. Raises `CannotBeMeasured` if a margin is not finite.
    """
    import torch  # here, because processes that merely read rows need `Attack`

    from lirf_core.evidence.answers import require_finite

    both = torch.cat([members, strangers]).double()
    require_finite(both)
    _, rank_of, counts = torch.unique(both, return_inverse=True, return_counts=True)
    mean_ranks = counts.cumsum(0).double() - (counts.double() - 1) / 2  # ties share their mean rank
    m, s = len(members), len(strangers)
    auc = ((mean_ranks[rank_of[:m]].sum() - m * (m + 1) / 2) / (m * s)).item()
    fewer = min(m, s)
    near = (auc * fewer + 0.5) / (fewer + 1)
    q1, q2 = near / (2 - near), 2 * near**2 / (1 + near)
    variance = (near * (1 - near) + (m - 1) * (q1 - near**2) + (s - 1) * (q2 - near**2)) / (m * s)
    return Attack(auc, math.sqrt(variance))
