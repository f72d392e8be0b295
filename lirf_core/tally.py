"""Counts of correct answers by class. Without PyTorch, so that the service can import it quickly."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tally:
    """How many images of each class there are, and how many of them a network answered correctly, by class index."""

    correct: tuple[int, ...]
    images: tuple[int, ...]

    def images_of(self, classes: Iterable[int]) -> int:
        """The number of images of these classes."""
        return sum(self.images[index] for index in classes)

    def correct_of(self, classes: Iterable[int]) -> int:
        """The number of images of these classes that were answered correctly."""
        return sum(self.correct[index] for index in classes)

    def percent(self, classes: Collection[int]) -> float | None:
        """The percentage of these classes' images that was answered correctly. None if there is no image."""
        images = self.images_of(classes)
        return round(100 * self.correct_of(classes) / images, 4) if images else None
