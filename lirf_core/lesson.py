"""What a network has to forget."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lirf_core.images.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class PreservedImages:
    """Some images of preserved classes, if there are any at hand: 10 to 50 of each class already help.

    images: uint8 (M, C, H, W); labels: int64 (M,), of preserved classes only. A training keeps the original's answers
    and features on them, beside the proxies; it never uses the labels.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Lesson:
    """A deposit set, and which classes are deposited and preserved.

    images: uint8 (N, C, H, W), of deposited classes only; labels: int64 (N,). `preserved` are the classes that the
    network answers for after the deposit. Both lists of class indices are stored in ascending order. `preserved_images`
    is None in the paper's setting.
    Raises ValueError if there is no image, an image of a class that is not deposited, or a preserved image of a class
    that is not preserved.
    """

    images: Tensor
    labels: Tensor
    deposited: Sequence[int]
    preserved: Sequence[int]
    preprocessing: Preprocessing
    preserved_images: PreservedImages | None = None

    def of_classes(self, classes: Sequence[int]) -> "Lesson":
        """The same lesson with some of its deposited classes only."""
        chosen = torch.isin(self.labels, torch.tensor(list(classes)))
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], deposited=classes)

    def __post_init__(self) -> None:
        object.__setattr__(self, "deposited", sorted(self.deposited))
        object.__setattr__(self, "preserved", sorted(self.preserved))
        if not len(self.images):
            raise ValueError("The deposit set has no images.")
        if foreign := set(self.labels.tolist()) - set(self.deposited):
            raise ValueError(f"The deposit set has images of classes {sorted(foreign)}, which are not being deposited.")
        if self.preserved_images and (foreign := set(self.preserved_images.labels.tolist()) - set(self.preserved)):
            raise ValueError(f"The preserved images show classes {sorted(foreign)}, which are not preserved.")
