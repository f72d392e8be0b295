"""What happens to uint8 images on the device before a network sees them: preprocessing and augmentation.

Only their methods import torch: processes that merely read rows need the settings without it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Generator, Tensor

ExifOrientation = Literal["apply", "ignore"]


@dataclass(frozen=True)
class Preprocessing:
    """How a stored image becomes the network's input: size in pixels, then (value / 255 - mean) / std per channel.

    exif_orientation: `apply` turns an image as its EXIF data say, as every viewer does, before it is resized; `ignore`
    is for networks that were trained on images as they are stored.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    exif_orientation: ExifOrientation = "apply"

    @property
    def channels(self) -> int:
        return len(self.mean)

    def normalise(self, images: "Tensor") -> "Tensor":
        """images: uint8 (B, C, H, W). Returns float32 of the same shape, on the same device."""
        import torch

        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        return (images.float() / 255 - mean) / std


@dataclass(frozen=True)
class Augmentation:
    """Random crop after zero-padding by `crop_padding` pixels, and a random horizontal flip if it keeps the class."""

    crop_padding: int = 4
    horizontal_flip: bool = True

    def __call__(self, images: "Tensor", generator: "Generator") -> "Tensor":
        """images: (B, C, H, W). Each image gets its own crop and flip, in one gather for the whole batch.

        `generator` runs on the CPU, so that a seed gives the same result on every device.
        """
        import torch
        from torch.nn import functional as F

        batch, _, height, width = images.shape
        shifts = torch.randint(2 * self.crop_padding + 1, (2, batch, 1), generator=generator)
        rows = shifts[0] + torch.arange(height)
        columns = shifts[1] + torch.arange(width)
        if self.horizontal_flip:
            is_flipped = torch.rand(batch, 1, generator=generator) < 0.5
            columns = columns.where(~is_flipped, columns.flip(1))
        padded = F.pad(images, [self.crop_padding] * 4).permute(0, 2, 3, 1)
        numbers = torch.arange(batch, device=images.device).view(-1, 1, 1)
        rows, columns = rows.to(images.device), columns.to(images.device)
        return padded[numbers, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
