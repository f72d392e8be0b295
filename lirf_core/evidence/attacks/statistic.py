"""Dep@Pre-5: the deposited accuracy that an attacker gets for 5 points of the preserved accuracy.

Deposited accuracy alone measures how readily a network answers a deposited class: a random network that never answers a
preserved class seems to know the deposited ones. One constant added to the deposited logits moves that readiness freely
and without a single image, so the statistic lets the attacker choose it (calibrated stacking of Chao et al., 2016).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from lirf_core.evidence.answers import CannotBeMeasured, require_finite


@dataclass(frozen=True)
class Accuracies:
    """Percentages of the deposited and of the preserved images that are answered correctly."""

    deposited: float
    preserved: float


@dataclass(frozen=True)
class Advantage:
    """By how many points a target is read better than a reference, with a 95 % interval from `low` to `high`."""

    points: float
    low: float
    high: float
    draws: int


NEVER_SEEN = -math.log(0.025)  # what is never seen among N images has, with 97.5 %, a share below this divided by N


def bias_at(logits: Tensor, labels: Tensor, deposited: Sequence[int], floor: float) -> float:
    """The largest constant on the deposited logits that leaves the preserved accuracy at `floor` percent.

    The deposited accuracy never falls as the constant grows, and the preserved accuracy never rises, so this constant
    gives the highest deposited accuracy. -inf if no constant reaches the floor; inf if every constant does.
    logits: (N, classes); labels: (N,), of preserved images at least. Raises `CannotBeMeasured`.
    """
    right, margins, is_deposited = _parts(logits, labels, deposited)
    if is_deposited.all():
        raise CannotBeMeasured("There is no image of a preserved class.")
    needed = math.ceil(floor / 100 * int((~is_deposited).sum()) - 1e-6)
    limits = (-margins[right & ~is_deposited]).sort(descending=True).values
    if needed > len(limits):
        return -math.inf
    return limits[needed - 1].item() if needed > 0 else math.inf


def accuracies(logits: Tensor, labels: Tensor, deposited: Sequence[int], bias: float = 0.0) -> Accuracies:
    """Accuracies after `bias` is added to the deposited logits; a tie is answered as preserved.

    logits: (N, classes); labels: (N,). Raises `CannotBeMeasured` if a part has no image.
    """
    right, margins, is_deposited = _parts(logits, labels, deposited)
    if is_deposited.all() or not is_deposited.any():
        raise CannotBeMeasured("Images of deposited and of preserved classes are needed.")
    correct = right & ((margins + bias > 0) == is_deposited)
    shares = (100 * correct[of_part].double().mean().item() for of_part in (is_deposited, ~is_deposited))
    return Accuracies(*(round(share, 4) for share in shares))


def advantage(target: Sequence[float], reference: Sequence[float], asked: int | None = None) -> Advantage:
    """The mean difference, paired over draws of images, with Student's interval; infinite for a single draw.

    target, reference: the same statistic in percent, of the same draws in the same order. asked: different images that
    the draws ask about; few images can agree by chance, so the interval is never narrower than the rule of three.
    """
    from scipy.stats import t  # slow to import, and few processes need it

    differences = [ours - theirs for ours, theirs in zip(target, reference, strict=True)]
    points, draws = fmean(differences), len(differences)
    half = float(t.ppf(0.975, draws - 1)) * stdev(differences) / math.sqrt(draws) if draws > 1 else math.inf
    half = max(half, 100 * NEVER_SEEN / asked) if asked else half
    return Advantage(round(points, 4), round(points - half, 4), round(points + half, 4), draws)


def _parts(logits: Tensor, labels: Tensor, deposited: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) each: right within its part; highest deposited logit minus highest preserved one; is deposited."""
    require_finite(logits)
    of_deposited = torch.zeros(logits.shape[1], dtype=torch.bool).index_fill_(0, torch.tensor(sorted(deposited)), True)
    is_deposited = of_deposited[labels]
    values = logits.double()
    best_deposited, best_preserved = (
        values.masked_fill(~of_part, -torch.inf).max(1) for of_part in (of_deposited, ~of_deposited)
    )
    right = labels == best_deposited.indices.where(is_deposited, best_preserved.indices)
    return right, best_deposited.values - best_preserved.values, is_deposited
