"""The images of several attackers, drawn so that each held-out image is a question of one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator

from lirf_core.evidence.answers import CannotBeMeasured
from lirf_core.evidence.images import Labelled

LEAST = 4  # images of a class: for each attacker at least one to learn, one to tune on, one as a question
ASKED = 2000  # tuning images, and questions, of one attacker
ASKED_EACH = 100  # of each class


@dataclass(frozen=True, eq=False)
class Draw:
    """One attacker's images to learn from and to tune on, and the questions, which they never see."""

    learning: Labelled
    tuning: Labelled
    questions: Labelled


def attacked_classes(held_out: Labelled, classes: Sequence[int]) -> list[int]:
    """Those of these classes that have enough held-out images, ascending."""
    counts = held_out.labels.bincount(minlength=max(classes, default=0) + 1)
    return [label for label in sorted(classes) if counts[label] >= LEAST]


def draws(held_out: Labelled, deposited: Sequence[int], count: int, learning: int, seed: int) -> list[Draw]:
    """Several attackers, fewer than `count` if there are fewer images. They do not share a question.

    held_out: at least `LEAST` images of each class, deposited and preserved; learning: images of each class that an
    attacker learns from, at most half of those that are no questions. Depends on the seed only. Raises
    `CannotBeMeasured` if a part has no image.
    """
    generator = Generator().manual_seed(seed)
    labels = held_out.classes()
    shuffled = {label: held_out.shuffled(label, generator) for label in labels}
    parts = [
        [len(shuffled[one]) for one in labels if (one in deposited) == is_deposited] for is_deposited in (True, False)
    ]
    if not all(parts):
        raise CannotBeMeasured(f"At least {LEAST} held-out images of a deposited and of a preserved class are needed.")
    count = min(count, *(max(part) for part in parts))
    each = min(ASKED_EACH, max(1, ASKED // len(labels)))
    return [_draw(held_out, list(shuffled.values()), number, count, learning, each) for number in range(count)]


def _draw(
    held_out: Labelled, by_class: Sequence[torch.Tensor], number: int, count: int, learning: int, each: int
) -> Draw:
    """Each attacker begins with other images to learn from, as far as there are enough."""
    learnt, tuned, asked = [], [], []
    for numbers in by_class:
        own = torch.cat([numbers[(number + further) % count :: count] for further in range(1, count)])
        few = min(learning, (len(own) + 1) // 2)
        learnt.append(own[:few])
        tuned.append(own[few:][:each])
        asked.append(numbers[number::count][:each])
    return Draw(*(held_out.select(torch.cat(numbers)) for numbers in (learnt, tuned, asked)))
