"""Named architectures and the points where each may be split.

A network is described by data (`ArchitectureSpec`), never by code or pickle, so that a service can build it for a
stranger. Parameter names are torchvision's: weights of a torchvision ResNet load unchanged.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torchvision.models import resnet

from lirf_core.network import SplitNetwork

Block = type[resnet.BasicBlock | resnet.Bottleneck]

_DEPTHS: dict[str, tuple[Block, list[int]]] = {
    "resnet18": (resnet.BasicBlock, [2, 2, 2, 2]),
    "resnet34": (resnet.BasicBlock, [3, 4, 6, 3]),
    "resnet50": (resnet.Bottleneck, [3, 4, 6, 3]),
}
_STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "flatten", "fc")
_LAST_LOWER_STAGE = {"stem": "maxpool", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3"}

ARCHITECTURES = tuple(_DEPTHS) + tuple(f"{name}-small" for name in _DEPTHS)
SPLITS = tuple(_LAST_LOWER_STAGE)


class UnknownArchitecture(ValueError):
    """The name is not in `ARCHITECTURES`."""


class UnknownSplit(ValueError):
    """The name is not in `SPLITS`."""


@dataclass(frozen=True)
class ArchitectureSpec:
    """What `build` needs to know.

    `-small` names have the small-image form: a 3x3 stem of stride 1 and no max-pool. `width`, in steps of 0.125, scales
    the four stage widths of that form (64, 128, 256, 512 at 1.0). `channels` is the number of image channels.
    """

    name: str
    classes: int
    width: float = 1.0
    channels: int = 3

    def __post_init__(self) -> None:
        if self.name not in ARCHITECTURES:
            raise UnknownArchitecture(f"no architecture '{self.name}'; there are {', '.join(ARCHITECTURES)}.")
        if not 2 <= self.classes <= 100_000:
            raise ValueError(f"classes is {self.classes}; it must be between 2 and 100,000.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; it must be 1 (grey) or 3 (RGB).")
        if not 0.125 <= self.width <= 4 or self.width * 8 % 1:
            raise ValueError(f"width is {self.width}; it must be a multiple of 0.125 from 0.125 to 4.")
        if self.width != 1.0 and not self.name.endswith("-small"):
            raise ValueError(f"width is {self.width}; only the -small architectures have a width factor.")


class _ResNet(resnet.ResNet):  # type: ignore[misc]
    """torchvision's ResNet, with the small-image form and a width factor."""

    def __init__(self, block: Block, layers: list[int], spec: ArchitectureSpec) -> None:
        super().__init__(block, layers, num_classes=spec.classes)
        is_small = spec.name.endswith("-small")
        base = int(64 * spec.width)
        if is_small:
            self.maxpool = nn.Identity()
        if is_small or spec.channels != 3:
            kernel, stride, padding = (3, 1, 1) if is_small else (7, 2, 3)
            self.conv1 = nn.Conv2d(spec.channels, base, kernel, stride=stride, padding=padding, bias=False)
        if base != 64:
            self.bn1 = nn.BatchNorm2d(base)
            self.inplanes = base
            self.layer1 = self._make_layer(block, base, layers[0])
            self.layer2 = self._make_layer(block, base * 2, layers[1], stride=2)
            self.layer3 = self._make_layer(block, base * 4, layers[2], stride=2)
            self.layer4 = self._make_layer(block, base * 8, layers[3], stride=2)
            self.fc = nn.Linear(base * 8 * block.expansion, spec.classes)
        self.flatten = nn.Flatten(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build(spec: ArchitectureSpec, split: str = "layer2") -> SplitNetwork:
    """A freshly initialised network, cut after the stage named by `split` (paper: the last two blocks are shared).

    Raises `UnknownSplit`.
    """
    if split not in SPLITS:
        raise UnknownSplit(f"'{split}' is no split of {spec.name}; it may be split after {', '.join(SPLITS)}.")
    block, layers = _DEPTHS[spec.name.removesuffix("-small")]
    whole = _ResNet(block, layers, spec)
    cut = _STAGES.index(_LAST_LOWER_STAGE[split]) + 1
    return SplitNetwork(_stages(whole, _STAGES[:cut]), _stages(whole, _STAGES[cut:]))


def _stages(whole: nn.Module, names: tuple[str, ...]) -> nn.Sequential:
    attribute: Callable[[str], nn.Module] = whole.get_submodule
    return nn.Sequential(OrderedDict((name, attribute(name)) for name in names))
