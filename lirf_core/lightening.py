"""Frozen parts for inference: the same functions with fewer steps, but for rounding."""

from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class PackedConvolution(nn.Module):
    """A convolution whose weights lie as oneDNN reads them; `nn.Conv2d` puts them in that order on each call.

    Of a small batch, that takes longer than the arithmetic. PyTorch's own compiler (Inductor) calls these operators;
    they have no public name.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert not isinstance(convolution.padding, str)
        padding, stride, dilation = map(list, (convolution.padding, convolution.stride, convolution.dilation))
        weight = convolution.weight.detach()
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, convolution.groups)
        self.register_buffer("weight", packed)
        self.register_buffer("bias", None if convolution.bias is None else convolution.bias.detach())
        self._options: tuple[object, ...] = padding, stride, dilation, convolution.groups, "none", [], ""

    def forward(self, images: Tensor) -> Tensor:
        """images: float32 (B, C, H, W). Returns (B, C', H', W')."""
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(images, self.weight, self.bias, *self._options)
        return convolved


def lighten(network: ModuleT) -> ModuleT:
    """Changes a network, or a part of one, that is in evaluation mode and on its device; returns it.

    A batch norm behind a convolution becomes a part of it, and convolutions on a CPU are packed.
    """
    for part in list(network.modules()):
        # Not by tracing (torch.fx): that changes how modules are called in all threads for as long as it takes.
        for (name, convolution), (norm_name, norm) in pairwise(list(part.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(part, name, fuse_conv_bn_eval(convolution, norm))
                setattr(part, norm_name, nn.Identity())
    if _is_of_onednn(network):
        for part in list(network.modules()):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Conv2d) and child.padding_mode == "zeros":
                    setattr(part, name, PackedConvolution(child))
    return network


def _is_of_onednn(network: nn.Module) -> bool:
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in network.parameters())
