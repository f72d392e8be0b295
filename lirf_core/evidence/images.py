"""The images of an examination: selected by number, and copied only when they are needed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

MEMBERS = 2000  # images on each side of a membership attack
ATTACK_IMAGES = 5000  # in each half of the held-out images
ATTACK_EACH = 200  # of each class, in each half
BATCH = 1000


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled images: all or some of a larger set.

    source: uint8 (S, C, H, W), possibly a memory-mapped file; labels: (N,); numbers: (N,), the index of each image in
    `source`, or None for all of them.
    """

    source: Tensor
    labels: Tensor
    numbers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def images(self) -> Tensor:
        """uint8 (N, C, H, W), in memory."""
        return self.source if self.numbers is None else self.source[self.numbers]

    def ask(self, answer: Callable[[Tensor], Tensor]) -> Tensor:
        """The answers (N, ...) to all images; `answer` gets (B, C, H, W) at a time."""
        return torch.cat([answer(batch) for batch in self._batches()])

    def classes(self) -> list[int]:
        """The classes that have images."""
        return sorted(set(self.labels.tolist()))

    def of_classes(self, classes: Sequence[int]) -> "Labelled":
        """The images of these classes."""
        return self.select(
            torch.isin(self.labels, torch.tensor(sorted(classes), dtype=self.labels.dtype)).nonzero()[:, 0]
        )

    def first_of_each(self, count: int) -> "Labelled":
        """The first `count` images of each class, in their order."""
        return self.select(_joined([self._numbers_of(label)[:count] for label in self.classes()]).sort().values)

    def select(self, numbers: Tensor) -> "Labelled":
        """The images with these numbers, counted within these images."""
        return Labelled(self.source, self.labels[numbers], numbers if self.numbers is None else self.numbers[numbers])

    def shuffled(self, label: int, generator: Generator) -> Tensor:
        """The numbers of a class's images, in random order."""
        numbers = self._numbers_of(label)
        return numbers[torch.randperm(len(numbers), generator=generator)]

    def _numbers_of(self, label: int) -> Tensor:
        return (self.labels == label).nonzero()[:, 0]

    def _batches(self) -> Iterator[Tensor]:
        if self.numbers is None:
            yield from torch.split(self.source, BATCH)
        else:
            yield from (self.source[numbers] for numbers in torch.split(self.numbers, BATCH))


def halves(held_out: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """A random half of each class for the attacker and the other half for questions, no more than an attack needs.

    A class with one image is in neither half.
    """
    generator = Generator().manual_seed(seed)
    labels = held_out.classes()
    most = min(ATTACK_EACH, max(1, ATTACK_IMAGES // max(1, len(labels))))
    attackers, questions = [], []
    for label in labels:
        numbers = held_out.shuffled(label, generator)
        half = len(numbers) // 2
        if half:
            attackers.append(numbers[:half][:most])
            questions.append(numbers[half:][:most])
    return held_out.select(_joined(attackers)), held_out.select(_joined(questions))


def sides(members: Labelled, strangers: Labelled, seed: int = 0) -> tuple[Labelled, Labelled]:
    """Random images, equally many of each class on both sides; otherwise the attack would separate classes.

    The result depends on the seed only.
    """
    generator = Generator().manual_seed(seed)
    both = sorted(set(members.classes()) & set(strangers.classes()))
    each = max(1, MEMBERS // max(1, len(both)))
    of_members, of_strangers = [], []
    for label in both:
        own, other = members.shuffled(label, generator), strangers.shuffled(label, generator)
        count = min(each, len(own), len(other))
        of_members.append(own[:count])
        of_strangers.append(other[:count])
    return members.select(_joined(of_members)), strangers.select(_joined(of_strangers))


def evenly_spaced(classes: Sequence[int], most: int) -> Sequence[int]:
    """At most `most` of the classes, evenly spaced from first to last."""
    return classes if len(classes) <= most else [classes[i * len(classes) // most] for i in range(most)]


def _joined(numbers: list[Tensor]) -> Tensor:
    return torch.cat([*numbers, torch.zeros(0, dtype=torch.long)])
