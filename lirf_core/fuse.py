"""Fusing of frozen networks for inference: the same function in fewer steps, up to rounding."""

import threading
from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lirf_core.class_rows import split_last
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule

_tracing = threading.Lock()


class PackedConvolution(nn.Module):
    """A convolution whose weights are already in oneDNN's order.

    `nn.Conv2d` reorders them on each call, which for a small batch takes longer than the arithmetic.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert not isinstance(convolution.padding, str)
        options = [list(option) for option in (convolution.stride, convolution.padding, convolution.dilation)]
        bias = None if convolution.bias is None else convolution.bias.detach()
        typical_shape = [8, convolution.in_channels, 16, 16]  # the packing is tuned for it, and works for any other
        self._packed = torch.ops.mkldnn_prepacked.conv2d_prepack(
            convolution.weight.detach(), bias, *options, convolution.groups, typical_shape, "none"
        )

    def forward(self, images: Tensor) -> Tensor:
        """images: float32 (B, C, H, W). Returns (B, C', H', W')."""
        convolved: Tensor = torch.ops.mkldnn_prepacked.conv2d_run(images, self._packed)
        return convolved


@torch.no_grad()
def fuse_network(network: SplitNetwork, example: Tensor) -> SplitNetwork:
    """Fuse a network, which must not be used afterwards. example: images (B, C, H, W) like those that it will see."""
    lower = _fused(network.lower, example)
    # The last layer stays outside, because each recover network puts rows of its own into it.
    trunk, last = split_last(network.upper)
    fused = OrderedDict(trunk=_fused(trunk, lower(example)), last=last)
    return SplitNetwork(lower, nn.Sequential(fused), network.absent)


@torch.no_grad()
def fuse_module(module: DepositModule, example: Tensor) -> DepositModule:
    """Fuse a deposit module: see `fuse_network`."""
    return module.with_lower(_fused(module.lower, example))


def _fused(part: nn.Module, example: Tensor) -> nn.Module:
    """Merge each batch norm into the convolution before it. The part is in eval mode and on its device.

    On a CPU, also pack the convolutions and trace the part. A traced part does not hold Python's global lock during a
    forward pass; otherwise each of its operators would wait for it while requests are read and answered.
    """
    for parent in list(part.modules()):
        # Not with torch.fx: while it traces, it changes how modules are called in all threads.
        for (name, convolution), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, norm_name, nn.Identity())
    if not _runs_on_onednn(part):
        return part
    for parent in list(part.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.padding_mode == "zeros":
                setattr(parent, name, PackedConvolution(child))
    with _tracing:
        traced: nn.Module = torch.jit.trace(part, example, check_trace=False)  # type: ignore[no-untyped-call]
    # If a part reads its batch size, the trace contains the example's. Another batch size shows that.
    twice = torch.cat([example, example])
    return traced if _answers_alike(traced, part, twice) else part


def _answers_alike(traced: nn.Module, part: nn.Module, images: Tensor) -> bool:
    try:
        return torch.equal(traced(images), part(images))
    except RuntimeError:
        return False


def _runs_on_onednn(part: nn.Module) -> bool:
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and all(
        parameter.device.type == "cpu" and parameter.dtype == torch.float32 for parameter in part.parameters()
    )
