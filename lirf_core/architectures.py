"""Named architectures and the points where each may be split.

A network is described by data (`ArchitectureSpec`), never by code or pickle, so that a service can build it for a
stranger. Parameter names are torchvision's: weights of a torchvision ResNet load unchanged.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from lirf_core.network import SplitNetwork

_STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "flatten", "fc")
_LAST_LOWER_STAGE = {"stem": "maxpool", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3"}

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet18-small", "resnet34-small", "resnet50-small")
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


def build(spec: ArchitectureSpec, split: str = "layer2") -> SplitNetwork:
    """A freshly initialised network, cut after the stage named by `split` (paper: the last two blocks are shared).

    Raises `UnknownSplit`.
    """
    if split not in SPLITS:
        raise UnknownSplit(f"'{split}' is no split of {spec.name}; it may be split after {', '.join(SPLITS)}.")
    from lirf_core.resnet import ResNet

    whole = ResNet(spec.name, spec.classes, spec.width, spec.channels)
    cut = _STAGES.index(_LAST_LOWER_STAGE[split]) + 1
    return SplitNetwork(_stages(whole, _STAGES[:cut]), _stages(whole, _STAGES[cut:]))


def _stages(whole: nn.Module, names: tuple[str, ...]) -> nn.Sequential:
    attribute: Callable[[str], nn.Module] = whole.get_submodule
    return nn.Sequential(OrderedDict((name, attribute(name)) for name in names))
