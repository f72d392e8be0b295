"""Which images an examination looks at: chosen by their number, and copied only where they are asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

MEMBERS = 2000  # images of each side of a membership attack
ATTACK_IMAGES = 5000  # that an attacker has, and as many are asked
ATTACK_EACH = 200
BATCH = 1000


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled images, perhaps some of a larger set.

    source: uint8 (S, C, H, W), which may be a mapped file; labels: (N,); numbers: (N,), the place of each in `source`;
    None where these are all.
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
        """What `answer` makes of the images, (B, C, H, W) at a time: (N, ...)."""
        return torch.cat([answer(batch) for batch in self._batches()])

    def classes(self) -> list[int]:
        """Those that it has images of."""
        return sorted(set(self.labels.tolist()))

    def of_classes(self, classes: Sequence[int]) -> "Labelled":
        return self.chosen(
            torch.isin(self.labels, torch.tensor(sorted(classes), dtype=self.labels.dtype)).nonzero()[:, 0]
        )

    def first_of_each(self, count: int) -> "Labelled":
        """At most so many of each class, in their order."""
        return self.chosen(_joined([self._of(label)[:count] for label in self.classes()]).sort().values)

    def chosen(self, numbers: Tensor) -> "Labelled":
        """Those of these numbers among them."""
        return Labelled(self.source, self.labels[numbers], numbers if self.numbers is None else self.numbers[numbers])

    def drawn(self, label: int, generator: Generator) -> Tensor:
        """The numbers of a class's images, in an order drawn by the generator."""
        of = self._of(label)
        return of[torch.randperm(len(of), generator=generator)]

    def _of(self, label: int) -> Tensor:
        return (self.labels == label).nonzero()[:, 0]

    def _batches(self) -> Iterator[Tensor]:
        if self.numbers is None:
            yield from torch.split(self.source, BATCH)
        else:
            yield from (self.source[numbers] for numbers in torch.split(self.numbers, BATCH))


def halves(held_out: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """The attacker's half of each class and the one that is asked, drawn by the seed; no more than an attack needs.

    A class with one image is in neither.
    """
    generator = Generator().manual_seed(seed)
    labels = held_out.classes()
    most = min(ATTACK_EACH, max(1, ATTACK_IMAGES // max(1, len(labels))))
    of_attackers, of_asked = [], []
    for label in labels:
        drawn = held_out.drawn(label, generator)
        half = len(drawn) // 2
        if half:
            of_attackers.append(drawn[:half][:most])
            of_asked.append(drawn[half:][:most])
    return held_out.chosen(_joined(of_attackers)), held_out.chosen(_joined(of_asked))


def sides(members: Labelled, strangers: Labelled, seed: int = 0) -> tuple[Labelled, Labelled]:
    """As many of each class on both sides, drawn by the seed: else the attack would tell classes apart, not members."""
    generator = Generator().manual_seed(seed)
    both = sorted(set(members.classes()) & set(strangers.classes()))
    each = max(1, MEMBERS // max(1, len(both)))
    of_members, of_strangers = [], []
    for label in both:
        own, other = members.drawn(label, generator), strangers.drawn(label, generator)
        count = min(each, len(own), len(other))
        of_members.append(own[:count])
        of_strangers.append(other[:count])
    return members.chosen(_joined(of_members)), strangers.chosen(_joined(of_strangers))


def spread(classes: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of them, from first to last."""
    return classes if len(classes) <= most else [classes[i * len(classes) // most] for i in range(most)]


def _joined(numbers: list[Tensor]) -> Tensor:
    return torch.cat([*numbers, torch.zeros(0, dtype=torch.long)])
