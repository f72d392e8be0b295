"""torchvision's networks that are `features`, a pooling and a classifier: VGG, MobileNet, EfficientNet, DenseNet and
ConvNeXt."""

from collections import OrderedDict
from typing import Any

from torch import nn
from torchvision import models

from lirf_core.architectures import ArchitectureSpec, chain
from lirf_core.architectures.channels import take_channels

# Dropout and stochastic depth belong to a recipe of training, not to the architecture, and they would draw from the
# global generator where a deposit is to depend on its arguments alone: all are off.
_WITHOUT_CHANCE = {
    "vgg": {"dropout": 0.0},
    "mobilenet": {"dropout": 0.0},
    "efficientnet": {"dropout": 0.0, "stochastic_depth_prob": 0.0},
    "densenet": {"drop_rate": 0.0},
    "convnext": {"stochastic_depth_prob": 0.0},
}


def parts(spec: ArchitectureSpec, split: str) -> tuple[nn.Module, nn.Module]:
    """The lower and the upper part. Blocks never work in place on their input, so a cut between blocks is safe."""
    family = next(family for family in _WITHOUT_CHANCE if spec.name.startswith(family))
    chance: dict[str, Any] = _WITHOUT_CHANCE[family]
    whole = models.get_model(spec.name, weights=None, num_classes=spec.classes, **chance)
    take_channels(whole, spec.channels)
    names = [name for name, _ in whole.features.named_children()]
    last = {"stem": "pool0"}.get(split, split.removeprefix("features."))
    cut = names.index(last) + 1
    lower = nn.Sequential(OrderedDict(features=chain(whole.features, names[:cut])))
    upper = OrderedDict[str, nn.Module](features=chain(whole.features, names[cut:]))
    # What torchvision's `forward` does between the children that it names.
    if family == "densenet":
        upper["relu"] = nn.ReLU(inplace=True)
    upper["avgpool"] = getattr(whole, "avgpool", None) or nn.AdaptiveAvgPool2d(1)
    if family != "convnext":  # its classifier flattens, behind a norm of its own
        upper["flatten"] = nn.Flatten(1)
    upper["classifier"] = whole.classifier
    return lower, nn.Sequential(upper)
