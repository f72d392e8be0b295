"""Frozen networks for inference: the same functions with fewer steps, but for rounding."""

import threading
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule

_tracing = threading.Lock()


class PackedConvolution(nn.Module):
    """A convolution whose weights lie as oneDNN reads them; `nn.Conv2d` puts them in that order on each call.

    Of a small batch, that takes longer than the arithmetic.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert not isinstance(convolution.padding, str)
        options = [list(one) for one in (convolution.stride, convolution.padding, convolution.dilation)]
        bias = None if convolution.bias is None else convolution.bias.detach()
        usual = [8, convolution.in_channels, 16, 16]  # images that it is packed for; others it takes as well
        self._packed = torch.ops.mkldnn_prepacked.conv2d_prepack(
            convolution.weight.detach(), bias, *options, convolution.groups, usual, "none"
        )

    def forward(self, images: Tensor) -> Tensor:
        """images: float32 (B, C, H, W). Returns (B, C', H', W')."""
        convolved: Tensor = torch.ops.mkldnn_prepacked.conv2d_run(images, self._packed)
        return convolved


@torch.no_grad()
def fuse_network(network: SplitNetwork, example: Tensor) -> SplitNetwork:
    """example: images (B, C, H, W) as it will see them. The network is used up."""
    lower = _fused(network.lower, example)
    return SplitNetwork(lower, _fused(network.upper, lower(example)))


@torch.no_grad()
def fuse_module(module: DepositModule, example: Tensor) -> DepositModule:
    """As `fuse_network`."""
    lower = _fused(module.lower, example)
    return DepositModule(lower, module.classes, module.upper_digest, module.joining, module.weight, module.grid)


def _fused(part: nn.Module, example: Tensor) -> nn.Module:
    """A part in evaluation mode, on its device: batch norms behind convolutions become parts of them.

    On a CPU, convolutions are packed, and the whole is traced: then a pass over it does not hold Python's lock, for
    which each of its operators would else wait while requests are read and answered.
    """
    for one in list(part.modules()):
        # Not by torch.fx, whose tracing changes how modules are called in all threads for as long as it takes.
        for (name, convolution), (norm_name, norm) in pairwise(list(one.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(one, name, fuse_conv_bn_eval(convolution, norm))
                setattr(one, norm_name, nn.Identity())
    if not _is_of_onednn(part):
        return part
    for one in list(part.modules()):
        for name, child in list(one.named_children()):
            if isinstance(child, nn.Conv2d) and child.padding_mode == "zeros":
                setattr(one, name, PackedConvolution(child))
    with _tracing:
        traced: nn.Module = torch.jit.trace(part, example, check_trace=False)  # type: ignore[no-untyped-call]
    # A part that asks for the size of its batch is traced with this one's.
    other = torch.cat([example, example])
    return traced if _answers_alike(traced, part, other) else part


def _answers_alike(traced: nn.Module, part: nn.Module, images: Tensor) -> bool:
    try:
        return torch.equal(traced(images), part(images))
    except RuntimeError:
        return False


def _is_of_onednn(part: nn.Module) -> bool:
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in part.parameters())
