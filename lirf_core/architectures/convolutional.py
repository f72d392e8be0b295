"""torchvision's networks of `features`, a pooling layer and a classifier: VGG, MobileNet, EfficientNet, DenseNet and
ConvNeXt."""

from collections import OrderedDict
from typing import Any

from torch import nn
from torchvision import models

from lirf_core.architectures import ArchitectureSpec, chain
from lirf_core.architectures.channels import take_channels

# Dropout and stochastic depth belong to a training recipe, not to an architecture. They would draw from the global
# generator, and a deposit must depend only on its arguments. So all are off.
_NO_RANDOMNESS = {
    "vgg": {"dropout": 0.0},
    "mobilenet": {"dropout": 0.0},
    "efficientnet": {"dropout": 0.0, "stochastic_depth_prob": 0.0},
    "densenet": {"drop_rate": 0.0},
    "convnext": {"stochastic_depth_prob": 0.0},
}


def parts(spec: ArchitectureSpec, split: str) -> tuple[nn.Module, nn.Module]:
    """The lower and the upper part. No block works in place on its input, so a split between blocks is safe."""
    family = next(family for family in _NO_RANDOMNESS if spec.name.startswith(family))
    options: dict[str, Any] = _NO_RANDOMNESS[family]
    whole = models.get_model(spec.name, weights=None, num_classes=spec.classes, **options)
    take_channels(whole, spec.channels)
    names = [name for name, _ in whole.features.named_children()]
    last = {"stem": "pool0"}.get(split, split.removeprefix("features."))
    cut = names.index(last) + 1
    lower = nn.Sequential(OrderedDict(features=chain(whole.features, names[:cut])))
    upper = OrderedDict[str, nn.Module](features=chain(whole.features, names[cut:]))
    # torchvision's `forward` does these steps between the named children.
    if family == "densenet":
        upper["relu"] = nn.ReLU(inplace=True)
    upper["avgpool"] = getattr(whole, "avgpool", None) or nn.AdaptiveAvgPool2d(1)
    if family != "convnext":  # its classifier flattens by itself, after a norm
        upper["flatten"] = nn.Flatten(1)
    upper["classifier"] = whole.classifier
    return lower, nn.Sequential(upper)
