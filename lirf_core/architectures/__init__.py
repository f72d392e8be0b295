"""Named architectures and the blocks after which each can be split.

A network is described by data (`ArchitectureSpec`), never by code or pickle, so that a service can build it from an
untrusted request. Parameter names are torchvision's, so weights of a torchvision network load unchanged.

Importing this package needs no torch. The first `build` imports the builders and torchvision, which takes seconds.
"""

import copy
import importlib
from collections import OrderedDict
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from lirf_core.network import SplitNetwork


class UnknownArchitecture(ValueError):
    """The name is not in `ARCHITECTURES`."""


class UnknownSplit(ValueError):
    """The network cannot be split there."""


class UnfitImageSize(ValueError):
    """The architecture does not take images of that size."""


@dataclass(frozen=True)
class _Family:
    """What is known about an architecture before it is built.

    builder: the module of this package with its `parts` function. splits: each is named after the last module of the
    lower part. smallest_image: length of a side in pixels. patch: length of a side in pixels, for networks whose image
    size is fixed. warning: what a measured deposit of this family did badly.
    """

    builder: str
    splits: tuple[str, ...]
    default_split: str
    smallest_image: int = 1
    patch: int | None = None
    warning: str | None = None


def _numbered(
    indices: range | tuple[int, ...], default: int, smallest_image: int = 1, warning: str | None = None
) -> _Family:
    """A network of numbered `features` in a row, followed by a classifier."""
    splits = tuple(f"features.{index}" for index in indices)
    return _Family("convolutional", splits, f"features.{default}", smallest_image, warning=warning)


_FORGETS_LITTLE = (
    "With the default settings, a MobileNetV3 that was trained on digits still answered 12 % of the deposited images. "
    "Upload held-out images of all classes, so that the service measures each deposit, and read the evidence."
)


_RESNET = _Family("resnet", ("stem", "layer1", "layer2", "layer3"), "layer3")
# These halve an image five times without padding, so nothing would be left of a smaller one.
_DENSE = "stem", "transition1", "transition2", "transition3"
_DENSENET = _Family("convolutional", _DENSE, "transition2", 29)
_CONVNEXT = _numbered(range(7), 4, smallest_image=32)
_ENCODER_LAYERS = tuple(f"encoder_layer_{index}" for index in range(11))

# The later the split, the better a network forgets, but the larger the deposit module. So by default it is the last one
# at which the module stays within its budget (`deposit.MODULE_BUDGET`) in 4 bits or more, with 10 or 1,000 classes, and
# the features still have more than one pixel if the image has 32 by 32: docs/architectures.md has the figures.
_FAMILIES = {
    **dict.fromkeys(
        ("resnet18", "resnet34", "resnet50", "resnet18-small", "resnet34-small", "resnet50-small"), _RESNET
    ),
    "vgg11_bn": _numbered((3, 7, 14, 21), 21, smallest_image=32),
    "vgg13_bn": _numbered((6, 13, 20, 27), 27, smallest_image=32),
    "vgg16_bn": _numbered((6, 13, 23, 33), 33, smallest_image=32),
    "vgg19_bn": _numbered((6, 13, 26, 39), 39, smallest_image=32),
    "mobilenet_v2": _numbered(range(18), 13),
    "mobilenet_v3_small": _numbered(range(12), 8, warning=_FORGETS_LITTLE),
    "mobilenet_v3_large": _numbered(range(16), 12, warning=_FORGETS_LITTLE),
    **{f"efficientnet_b{size}": _numbered(range(8), 5) for size in range(8)},
    "efficientnet_v2_s": _numbered(range(7), 5),
    "efficientnet_v2_m": _numbered(range(8), 5),
    "efficientnet_v2_l": _numbered(range(8), 5),
    **dict.fromkeys(("densenet121", "densenet161", "densenet169", "densenet201"), _DENSENET),
    **dict.fromkeys(("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"), _CONVNEXT),
    "vit_b_16": _Family("vit", _ENCODER_LAYERS, "encoder_layer_3", smallest_image=16, patch=16),
    "vit_b_32": _Family("vit", _ENCODER_LAYERS, "encoder_layer_3", smallest_image=32, patch=32),
}

ARCHITECTURES = tuple(_FAMILIES)
SMALL = "-small: with a 3x3 stem and no max-pool, for small images such as 32 by 32 pixels."
VIT_IMAGE_SIZE = 224


@dataclass(frozen=True)
class ArchitectureSpec:
    """An architecture and its size: everything that `build` needs.

    `-small` names have a form for small images: a 3x3 stem of stride 1 and no max-pool. `width`, a multiple of 0.125,
    scales the four stage widths of that form (64, 128, 256, 512 at 1.0). `channels` is the number of image channels.
    `image_size`, height and width in pixels, applies only to a ViT, whose positional embedding has a row for each
    patch. Other networks take images of any size that `check_image_size` accepts.
    """

    name: str
    classes: int
    width: float = 1.0
    channels: int = 3
    image_size: int = VIT_IMAGE_SIZE

    def __post_init__(self) -> None:
        family = _family(self.name)
        if not 2 <= self.classes <= 100_000:
            raise ValueError(f"classes is {self.classes}; it must be from 2 to 100,000.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; it must be 1 (grey) or 3 (RGB).")
        if not 0.125 <= self.width <= 4 or self.width * 8 % 1:
            raise ValueError(f"width is {self.width}; it must be a multiple of 0.125 from 0.125 to 4.")
        if self.width != 1.0 and not self.name.endswith("-small"):
            raise ValueError(f"width is {self.width}; only the -small architectures have a width factor.")
        if family.patch:
            check_image_size(self.name, self.image_size, self.image_size)
        elif self.image_size != VIT_IMAGE_SIZE:
            raise ValueError(f"image_size is {self.image_size}; only a ViT has an image size, not {self.name}.")

    def description(self) -> dict[str, str | int | float]:
        """The fields as plain data: `ArchitectureSpec(**description)` equals this spec.

        Only a ViT's description has `image_size`. So a ResNet's description is the same as before this field existed,
        and parts that were stored with it still match.
        """
        fields: dict[str, str | int | float] = asdict(self)
        if not has_image_size(self.name):
            del fields["image_size"]
        return fields


def splits_of(name: str) -> tuple[str, ...]:
    """The possible splits of an architecture, starting at the image. Raises `UnknownArchitecture`."""
    return _family(name).splits


def default_split(name: str) -> str:
    """Where `build` splits by default. Raises `UnknownArchitecture`."""
    return _family(name).default_split


def warnings_of(name: str) -> list[str]:
    """What a reader must know before a deposit of such a network. Raises `UnknownArchitecture`."""
    warning = _family(name).warning
    return [warning] if warning else []


def check_split(name: str, split: str) -> None:
    """Raises `UnknownSplit`, which names the possible splits, or `UnknownArchitecture`."""
    if split not in (splits := splits_of(name)):
        raise UnknownSplit(f"{name} has no split '{split}'. It can be split after {', '.join(splits)}.")


def has_image_size(name: str) -> bool:
    """Whether the image size is fixed, as for a ViT. Raises `UnknownArchitecture`."""
    return _family(name).patch is not None


def check_image_size(name: str, height: int, width: int) -> None:
    """height, width: in pixels. Raises `UnfitImageSize` or `UnknownArchitecture`."""
    family = _family(name)
    if min(height, width) < family.smallest_image:
        raise UnfitImageSize(
            f"{name} takes images of at least {family.smallest_image} by {family.smallest_image} pixels, "
            f"not {height} by {width}."
        )
    if family.patch and (height != width or height % family.patch):
        raise UnfitImageSize(
            f"{name} takes square images whose side is a multiple of {family.patch} pixels, not {height} by {width}."
        )


def build(spec: ArchitectureSpec, split: str | None = None) -> "SplitNetwork":
    """A freshly initialised network, split after the module named `split`, or at its `default_split`.

    Raises `UnknownSplit`.
    """
    from lirf_core.network import SplitNetwork

    split = default_split(spec.name) if split is None else split
    check_split(spec.name, split)
    builder = importlib.import_module(f"{__name__}.{_family(spec.name).builder}")
    lower, upper = builder.parts(spec, split)
    return SplitNetwork(lower, upper)


def untrained(spec: ArchitectureSpec, split: str, seed: int) -> "SplitNetwork":
    """The same network as `build` makes after this global seed. The global generator stays as it is."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(spec, split)


@lru_cache(64)
def outline(spec: ArchitectureSpec, split: str | None = None) -> "SplitNetwork":
    """The network that `build` makes, on the meta device: names and shapes without numbers.

    The result is shared; do not change it. Raises `UnknownSplit`.
    """
    import torch

    with torch.device("meta"):
        return build(spec, split)


def empty(spec: ArchitectureSpec, split: str) -> "SplitNetwork":
    """The network that `build` makes, with uninitialised weights, to be loaded.

    Only the batch counters are set, to 0, because weights may lack them. Raises `UnknownSplit`.
    """
    network = copy.deepcopy(outline(spec, split)).to_empty(device="cpu")
    for name, count in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            count.zero_()
    return network


def split_sequential(network: "nn.Sequential", after: str) -> "SplitNetwork":
    """Any `nn.Sequential` of named blocks, split after the child named `after`. Both parts share its modules.

    For use from Python, with `deposit` and `RecoverNetwork`. The service cannot register such a network, because it
    describes networks by data, never by code or pickle. Features at the split must have the shape (B, C, H, W). Layers
    whose number of channels is not fixed (a shape that depends on values) cannot be pruned. Dropout and stochastic
    depth in the lower part draw from torch's global generator; set them to 0 for a repeatable deposit.

    Raises `UnknownSplit` if there is no such child, if none is left for the upper part, if a layer before the split
    flattens, or if the layer after it works in place, which would change features that the deposit still needs.
    """
    from torch import nn

    from lirf_core.network import SplitNetwork

    names = [name for name, _ in network.named_children()]
    if after not in names[:-1]:
        raise UnknownSplit(f"This network has no split '{after}'. It can be split after {', '.join(names[:-1])}.")
    cut = names.index(after) + 1
    lower, upper = chain(network, names[:cut]), chain(network, names[cut:])
    for name, module in lower.named_modules():
        if isinstance(module, nn.Flatten):
            raise UnknownSplit(f"'{name}' flattens the features. Split before it, where they are (B, C, H, W).")
    name, first = next((name, module) for name, module in upper.named_modules() if not any(module.children()))
    if getattr(first, "inplace", False):
        raise UnknownSplit(
            f"'{name}', right after '{after}', works in place. Split after it, or set its inplace to False."
        )
    return SplitNetwork(lower, upper)


def chain(modules: "nn.Module", names: list[str]) -> "nn.Sequential":
    """The named children in a row, under their own names, so that parameters keep theirs."""
    from torch import nn

    return nn.Sequential(OrderedDict((name, modules.get_submodule(name)) for name in names))


def _family(name: str) -> _Family:
    if name not in _FAMILIES:
        raise UnknownArchitecture(
            f"There is no architecture '{name}'. The architectures are {', '.join(ARCHITECTURES)}."
        )
    return _FAMILIES[name]
