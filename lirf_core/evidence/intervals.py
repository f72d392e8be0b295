"""The uncertainty of a share of images."""

import math
from statistics import NormalDist

MANY = 20  # images of a class; with fewer, a share is very uncertain


def interval(percent: float, images: int, tail: float = 0.025) -> tuple[float, float]:
    """The interval of a share, in percent (Wilson, 1927), with a probability of `tail` on either side of it."""
    z, p = NormalDist().inv_cdf(1 - tail), percent / 100
    middle = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    return 100 * max(middle - half, 0.0), 100 * min(middle + half, 1.0)


def chances(correct: int, images: int, percent: float) -> tuple[float, float]:
    """Probabilities of at most and of at least `correct` answers if each is correct with `percent` (exact binomial).

    Wilson's interval is too short for a share near 0, where those of forgotten classes are.
    """
    from scipy.special import bdtr, bdtrc  # slow to import: it would double the start time of every command

    more = 1.0 if correct == 0 else float(bdtrc(correct - 1, images, percent / 100))
    return float(bdtr(correct, images, percent / 100)), more
