"""Frozen parts for inference: the same functions with fewer steps, but for rounding."""

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule


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


def lighter_network(network: SplitNetwork) -> SplitNetwork:
    return SplitNetwork(_lighter(network.lower), _lighter(network.upper))


def lighter_module(module: DepositModule) -> DepositModule:
    return DepositModule(
        _lighter(module.lower), module.classes, module.upper_digest, module.joining, module.weight, module.grid
    )


def _lighter(part: nn.Module) -> nn.Module:
    """A part in evaluation mode, on its device. Each batch norm behind a convolution becomes a part of it."""
    if any(isinstance(one, nn.BatchNorm2d) for one in part.modules()):
        with torch.no_grad():
            part = fuse(part)
    if _is_of_onednn(part):
        for name, convolution in list(part.named_modules()):
            if isinstance(convolution, nn.Conv2d) and convolution.padding_mode == "zeros":
                parent, _, last = name.rpartition(".")
                setattr(part.get_submodule(parent), last, PackedConvolution(convolution))
    return part


def _is_of_onednn(part: nn.Module) -> bool:
    parameters = list(part.parameters())
    is_plain = all(one.device.type == "cpu" and one.dtype == torch.float32 for one in parameters)
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and is_plain
