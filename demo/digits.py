"""scikit-learn's handwritten digits (1,797 scans that come with the package), and a network that reads them."""

import argparse
import zipfile
from io import BytesIO
from pathlib import Path

import numpy
import safetensors.torch
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from lirf_core.architectures import ArchitectureSpec
from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Augmentation, Preprocessing
from lirf_core.network import SplitNetwork, flat_state
from lirf_core.pretraining import train_original

CLASSES = [str(digit) for digit in range(10)]
SPEC = ArchitectureSpec("resnet18-small", classes=10, width=0.25, channels=1)
PREPROCESSING = Preprocessing(height=16, width=16, mean=(0.3,), std=(0.35,))
AUGMENTATION = Augmentation(crop_padding=1, horizontal_flip=False)


class Digits:
    """images: uint8 (N, 16, 16), enlarged from 8 x 8; labels: (N,). 30 % of each digit are held out."""

    def __init__(self, held_out: float = 0.3) -> None:
        dataset = load_digits()
        scans = (dataset.images * 255 / 16).round().astype(numpy.uint8)
        size = (PREPROCESSING.width, PREPROCESSING.height)
        enlarged = [Image.fromarray(scan).resize(size, Image.Resampling.BILINEAR) for scan in scans]
        self.images = numpy.stack([numpy.asarray(image) for image in enlarged])
        self.labels = dataset.target
        numbers = range(len(self.labels))
        self.training, self.held_out = train_test_split(
            numbers, test_size=held_out, random_state=0, stratify=self.labels
        )

    def tensors(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """uint8 (N, 1, 16, 16) and int64 (N,)."""
        return torch.from_numpy(self.images[numbers])[:, None], torch.from_numpy(self.labels[numbers])

    def of_classes(self, numbers: list[int], digits: list[int]) -> list[int]:
        return [number for number in numbers if self.labels[number] in digits]

    def write_zip(self, path: Path, numbers: list[int]) -> Path:
        """Write a zip of class folders with PNG files."""
        with zipfile.ZipFile(path, "w") as archive:
            for number in numbers:
                png = BytesIO()
                Image.fromarray(self.images[number]).save(png, "PNG")
                archive.writestr(f"{self.labels[number]}/{number:04d}.png", png.getvalue())
        return path

    def write_folders(self, folder: Path, numbers: list[int]) -> None:
        """Write class folders with PNG files."""
        for number in numbers:
            file = folder / str(self.labels[number]) / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self.images[number]).save(file)


def train(digits: Digits, *, epochs: int = 15, seed: int = 0) -> SplitNetwork:
    """Train an original network, which reads about 99 % of held-out digits correctly."""
    images, labels = digits.tensors(digits.training)
    return train_original(
        SPEC,
        images,
        labels,
        PREPROCESSING,
        Compute.for_training("cpu"),
        epochs=epochs,
        augmentation=AUGMENTATION,
        seed=seed,
    )


def write_weights(path: Path, network: SplitNetwork) -> Path:
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in flat_state(network).items()}, path)
    return path


def main() -> None:
    """Write the files of the tutorial and the how-tos: weights, a deposit set of 0, 1 and 2, and held-out digits.

    Weights that are there already stay.
    """
    parser = argparse.ArgumentParser(prog="python -m demo.digits", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--images", action="store_true", help="Write only images, into train/CLASS/ and test/CLASS/, for the tutorial."
    )
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    digits = Digits()
    if arguments.images:
        digits.write_folders(folder / "train", digits.training)
        digits.write_folders(folder / "test", digits.held_out)
        return
    digits.write_zip(folder / "deposit.zip", digits.of_classes(digits.training, [0, 1, 2]))
    digits.write_zip(folder / "evaluation.zip", digits.held_out)
    Image.fromarray(digits.images[digits.of_classes(digits.held_out, [0])[0]]).save(folder / "zero.png")
    if not (weights := folder / "digits.safetensors").exists():
        write_weights(weights, train(digits))


if __name__ == "__main__":
    main()
