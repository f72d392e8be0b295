"""What a network clearly knows on an evaluation set: more than chance gives it.

Wrong folder names, wrong preprocessing or images of something else show here, before any figure is drawn from them.
"""

from collections.abc import Collection

from lirf_core.evidence.intervals import chances
from lirf_core.tally import Tally

TAIL = 0.05  # the probability that chance alone passes for knowledge


def is_known(correct: int, images: int, classes: int) -> bool:
    """Whether so many correct answers are clearly more than a guess among `classes` gives. Not without images."""
    return images > 0 and chances(correct, images, 100 / classes)[1] < TAIL


def unknown(tally: Tally, classes: Collection[int]) -> list[int]:
    """Those of these classes that the network does not clearly know. A class without images is among them."""
    return [i for i in classes if not is_known(tally.correct[i], tally.images[i], len(tally.images))]


def knows_anything(tally: Tally, classes: Collection[int]) -> bool:
    """Whether the network clearly knows these classes, taken together."""
    return is_known(tally.correct_of(classes), tally.images_of(classes), len(tally.images))
