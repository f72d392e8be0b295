"""The images for the benchmarks: CIFAR-10, Fashion-MNIST, Tiny ImageNet, scikit-learn's digits, or your own folder.

`--data` is one of `SOURCES`, or the path of a folder with images of one size in `train/CLASS/` and `test/CLASS/`.
"""

import io
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch
from PIL import Image, ImageOps
from torch import Tensor

from demo import digits
from lirf_core.architectures import ArchitectureSpec
from lirf_core.images.preprocessing import Augmentation, Preprocessing

SOURCES = ("cifar10", "digits", "fashion-mnist", "tiny-imagenet")
DOWNLOADS = Path(os.environ.get("LIRF_BENCHMARK_DATA", Path.home() / ".cache" / "lirf"))
# JPEG copies of CIFAR-10 and Tiny ImageNet and trained narrow networks, if this checkout has them next to it.
SHARED = Path(os.environ.get("LIRF_BENCHMARK_SHARED", Path(__file__).parents[2] / "shared" / "data"))


class NoSuchData(Exception):
    """The data is not here and could not be downloaded. The message says why."""


@dataclass(frozen=True)
class Images:
    """pixels: uint8 (N, C, H, W); labels: int64 (N,)."""

    pixels: Tensor
    labels: Tensor

    def of_classes(self, classes: list[int]) -> "Images":
        return self.where(torch.isin(self.labels, torch.tensor(classes)))

    def where(self, selection: Tensor) -> "Images":
        return Images(self.pixels[selection], self.labels[selection])

    def first_of_each(self, count: int | None) -> "Images":
        """`count` images of each class, always the same ones, or all if there are fewer. None: all."""
        if count is None:
            return self
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(0))
        labels = self.labels[order]
        numbers = [order[labels == index][:count] for index in sorted(set(labels.tolist()))]
        return self.where(torch.cat(numbers))

    def first(self, count: int) -> "Images":
        return Images(self.pixels[:count], self.labels[:count])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """Training and held-out images, their preprocessing and augmentation, and the usual architecture for them.

    is_adaptive: how that is trained, see `pretraining.train_original`.
    """

    name: str
    classes: list[str]
    training: Images
    held_out: Images
    preprocessing: Preprocessing
    augmentation: Augmentation
    narrow: ArchitectureSpec
    weights: Path | None = field(default=None)
    is_adaptive: bool = False

    @property
    def deposited(self) -> list[int]:
        """The first 30 % of the classes (paper, section 5.1)."""
        return list(range(max(1, round(0.3 * len(self.classes)))))

    @property
    def preserved(self) -> list[int]:
        return list(range(len(self.deposited), len(self.classes)))


def load(source: str) -> Data:
    """Load or download the data of a `--data` option. Raises `NoSuchData`."""
    if source == "digits":
        return _digits()
    if source == "cifar10":
        return _cifar10()
    if source == "fashion-mnist":
        return _fashion_mnist()
    if source == "tiny-imagenet":
        return _tiny_imagenet()
    return _folder(Path(source))


def _digits() -> Data:
    scans = digits.Digits()
    return Data(
        "digits",
        digits.CLASSES,
        Images(*scans.tensors(scans.training)),
        Images(*scans.tensors(scans.held_out)),
        digits.PREPROCESSING,
        digits.AUGMENTATION,
        digits.SPEC,
    )


def _cifar10() -> Data:
    weights = SHARED / "cifar10-resnet18-w32-a.safetensors"
    if (SHARED / "cifar10-jpeg").is_dir():
        training, classes = _shards("cifar10-jpeg", "train")
        held_out, _ = _shards("cifar10-jpeg", "test")
    else:
        from torchvision.datasets import CIFAR10

        training, held_out, classes = _download(CIFAR10)
    return Data(
        "cifar10",
        classes,
        training,
        held_out,
        Preprocessing(32, 32, (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
        Augmentation(),
        ArchitectureSpec("resnet18-small", classes=len(classes), width=0.5),
        weights if weights.exists() else None,
    )


def _fashion_mnist() -> Data:
    from torchvision.datasets import FashionMNIST

    training, held_out, classes = _download(FashionMNIST)
    return Data(
        "fashion-mnist",
        classes,
        training,
        held_out,
        Preprocessing(28, 28, (0.286,), (0.353,)),
        Augmentation(crop_padding=2),
        ArchitectureSpec("resnet18-small", classes=len(classes), width=0.25, channels=1),
    )


def _tiny_imagenet() -> Data:
    """The first 50 classes of the usual order, shrunk to 32 pixels; 500 training and 50 held-out images of each."""
    if not (SHARED / "tiny-imagenet-100").is_dir():
        raise NoSuchData(f"'{SHARED}' has no Tiny ImageNet. Unpack your copy and give its folder to --data.")
    training, classes = _shards("tiny-imagenet-100", "train")
    held_out, _ = _shards("tiny-imagenet-100", "test")
    known = list(range(50))
    return Data(
        "tiny-imagenet",
        classes[: len(known)],
        training.of_classes(known),
        held_out.of_classes(known),
        Preprocessing(32, 32, (0.4808, 0.4484, 0.3912), (0.2624, 0.2528, 0.2661)),
        Augmentation(),
        ArchitectureSpec("resnet18-small", classes=len(known), width=0.5),
        SHARED / "tiny-imagenet-50-resnet18-w32.safetensors",
    )


def _download(dataset: type) -> tuple[Images, Images, list[str]]:
    try:
        training, held_out = (dataset(DOWNLOADS, train=is_training, download=True) for is_training in (True, False))
    except (OSError, RuntimeError) as error:
        raise NoSuchData(
            f"{dataset.__name__} is not in {DOWNLOADS} and could not be downloaded: {error}. "
            "Download it elsewhere and set LIRF_BENCHMARK_DATA, or use --data digits, which needs no network."
        ) from error
    return _as_images(training), _as_images(held_out), list(training.classes)


def _as_images(dataset: object) -> Images:
    pixels = torch.as_tensor(numpy.asarray(dataset.data))  # type: ignore[attr-defined]
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.as_tensor(dataset.targets))  # type: ignore[attr-defined]


def _shards(folder: str, part: str) -> tuple[Images, list[str]]:
    pixels, labels, classes = [], [], []
    for path in sorted((SHARED / folder).glob(f"{part}*.npz")):
        shard = numpy.load(path)
        jpeg, offsets = shard["jpeg"], shard["offsets"]  # each access unpacks the whole array
        pixels += [
            numpy.asarray(Image.open(io.BytesIO(jpeg[begin:end].tobytes())))
            for begin, end in itertools.pairwise(offsets)
        ]
        labels.append(torch.from_numpy(shard["label"]).long())
        classes = [str(name) for name in shard["classes"]]
    stacked = torch.from_numpy(numpy.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Images(stacked, torch.cat(labels)), classes


def _folder(path: Path) -> Data:
    if not (path / "train").is_dir() or not (path / "test").is_dir():
        raise NoSuchData(
            f"'{path}' is neither one of {', '.join(SOURCES)} nor a folder with images in train/CLASS/ and test/CLASS/."
        )
    classes = sorted(folder.name for folder in (path / "train").iterdir() if folder.is_dir())
    training, held_out = (_folder_images(path / part, classes) for part in ("train", "test"))
    _, channels, height, width = training.pixels.shape
    return Data(
        path.resolve().name,
        classes,
        training,
        held_out,
        Preprocessing(height, width, (0.5,) * channels, (0.25,) * channels),
        Augmentation(),
        ArchitectureSpec("resnet18-small", classes=len(classes), width=0.5, channels=channels),
    )


def _folder_images(path: Path, classes: list[str]) -> Images:
    files = [(file, index) for index, name in enumerate(classes) for file in sorted((path / name).glob("*"))]
    if not files:
        raise NoSuchData(f"'{path}' has no images in folders with the names {', '.join(classes)}.")
    pixels = numpy.stack(list(_decoded(file for file, _ in files)))
    return Images(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor([index for _, index in files])
    )


def _decoded(files: Iterator[Path]) -> Iterator[numpy.ndarray]:
    for file in files:
        with Image.open(file) as image:
            yield numpy.asarray(ImageOps.exif_transpose(image).convert("RGB"))
