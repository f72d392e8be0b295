"""torchvision's ResNet with the small-image form and a width factor."""

from torch import nn
from torchvision.models import resnet

from lirf_core.architectures import ArchitectureSpec, chain

_DEPTHS: dict[str, tuple[type[resnet.BasicBlock | resnet.Bottleneck], list[int]]] = {
    "resnet18": (resnet.BasicBlock, [2, 2, 2, 2]),
    "resnet34": (resnet.BasicBlock, [3, 4, 6, 3]),
    "resnet50": (resnet.Bottleneck, [3, 4, 6, 3]),
}
_LAST_LOWER_STAGE = {"stem": "maxpool", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3"}
_STAGES = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "flatten", "fc"]


class ResNet(resnet.ResNet):  # type: ignore[misc]
    """name: one of `architectures.ARCHITECTURES`. width: scales the stages of a `-small` one."""

    def __init__(self, name: str, classes: int, width: float, channels: int) -> None:
        block, layers = _DEPTHS[name.removesuffix("-small")]
        super().__init__(block, layers, num_classes=classes)
        is_small = name.endswith("-small")
        base = int(64 * width)
        if is_small:
            self.maxpool = nn.Identity()
        if is_small or channels != 3:
            kernel, stride, padding = (3, 1, 1) if is_small else (7, 2, 3)
            self.conv1 = nn.Conv2d(channels, base, kernel, stride=stride, padding=padding, bias=False)
        if base != 64:
            self.bn1 = nn.BatchNorm2d(base)
            self.inplanes = base
            self.layer1 = self._make_layer(block, base, layers[0])
            self.layer2 = self._make_layer(block, base * 2, layers[1], stride=2)
            self.layer3 = self._make_layer(block, base * 4, layers[2], stride=2)
            self.layer4 = self._make_layer(block, base * 8, layers[3], stride=2)
            self.fc = nn.Linear(base * 8 * block.expansion, classes)
        self.flatten = nn.Flatten(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def parts(spec: ArchitectureSpec, split: str) -> tuple[nn.Module, nn.Module]:
    """The lower and the upper part."""
    whole = ResNet(spec.name, spec.classes, spec.width, spec.channels)
    cut = _STAGES.index(_LAST_LOWER_STAGE[split]) + 1
    return chain(whole, _STAGES[:cut]), chain(whole, _STAGES[cut:])
