"""How surely a share of images is known."""

import math
from statistics import NormalDist

MANY = 20  # images of a class, of fewer of which little is known


def interval(percent: float, images: int, tail: float = 0.025) -> tuple[float, float]:
    """Percent between which a share lies (Wilson, 1927), but for `tail` on either side."""
    z, p = NormalDist().inv_cdf(1 - tail), percent / 100
    middle = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    return 100 * max(middle - half, 0.0), 100 * min(middle + half, 1.0)


def chances(right: int, images: int, percent: float) -> tuple[float, float]:
    """Of so many right answers or fewer, and of so many or more, where so many percent are right (binomial, exact).

    Wilson's interval is too short for a share near 0, where forgotten classes are.
    """
    from scipy.special import bdtr, bdtrc  # takes as long as the rest of a command's start

    more = 1.0 if right == 0 else float(bdtrc(right - 1, images, percent / 100))
    return float(bdtr(right, images, percent / 100)), more
