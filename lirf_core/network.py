"""A network split in two at block n, on which every operation of the method works (paper, section 4.1)."""

import hashlib
from collections.abc import Collection

import torch
from torch import Tensor, nn


class SplitNetwork(nn.Module):
    """`lower` is T^(-n), which a deposit trains; `upper` is T^(n-), which is frozen and shared for good.

    `flat_state` has the parameter names of the unsplit network (torchvision's), without `lower.` or `upper.`.
    `absent`: the classes whose rows the last layer lacks (see `class_rows`).
    """

    def __init__(self, lower: nn.Module, upper: nn.Module, absent: Collection[int] = ()) -> None:
        super().__init__()
        self.lower = lower
        self.upper = upper
        self.absent = frozenset(absent)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W), normalised. Returns logits (B, classes)."""
        logits: Tensor = self.upper(self.lower(images))
        return logits


def flat_state(network: SplitNetwork) -> dict[str, Tensor]:
    """Parameters and buffers of both parts under the names of the unsplit network."""
    return {**network.lower.state_dict(), **network.upper.state_dict()}


def load_flat_state(network: SplitNetwork, state: dict[str, Tensor]) -> None:
    """The inverse of `flat_state`. The state must fit exactly; `artifacts.check_fits` says in words if it does not."""
    lower_names = network.lower.state_dict().keys()
    network.lower.load_state_dict({name: state[name] for name in lower_names})
    network.upper.load_state_dict({name: tensor for name, tensor in state.items() if name not in lower_names})


def digest(part: nn.Module) -> str:
    """SHA-256 over the name, type, shape and bytes of every parameter and buffer, sorted by name."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(part.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        hasher.update(f"{name}:{values.dtype}:{list(values.shape)}\n".encode())
        hasher.update(values.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def freeze(part: nn.Module) -> None:
    """Turn off gradients and batch-norm updates, so that the part's answers never change."""
    part.requires_grad_(False)
    part.eval()


def is_depthwise(part: nn.Module) -> bool:
    """Whether it has depthwise convolutions and batch norm, as MobileNets and EfficientNets do.

    Their filters differ in scale far more than those of other networks (docs/decisions/0031).
    """
    layers = list(part.modules())
    has_depthwise = any(isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1 for layer in layers)
    return has_depthwise and any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
