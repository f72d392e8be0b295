"""Structural pruning of the lower part by L1 filter norm (paper, eq. 5; Li et al., Pruning Filters for Efficient
ConvNets). The output width stays, so that the shared upper part still fits."""

import copy
import warnings
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

Widths = dict[str, list[int]]

# Kernels of CPUs and tensor cores work in eights; and oneDNN's gradient of a strided 1x1 convolution writes outside its
# buffer where the channels are no multiple of 8 (torch 2.13, AVX2): see docs/decisions/0007.
CHANNEL_MULTIPLE = 8

_OUTPUTS = (
    torch_pruning.prune_conv_out_channels,
    torch_pruning.prune_depthwise_conv_out_channels,
    torch_pruning.prune_linear_out_channels,
)


def prune(lower: nn.Module, rate: float, example: Tensor) -> nn.Module:
    """A copy of `lower` without the `rate` (0 to under 1) of its filters that have the smallest L1 norm.

    What stays of each width is rounded to a multiple of 8; a width of which nothing would stay is kept. Filters whose
    width reaches the output are kept, and so are the widths that pass a layer norm or a group norm: of a ViT or a
    ConvNeXt only the hidden widths shrink, because Torch-Pruning does not follow class tokens and layer scales, which
    have the width of the residual stream.
    example: (1, C, H, W), any input of the right size. Raises ValueError when the features are not (1, C', H', W').
    """
    if not 0 <= rate < 1:
        raise ValueError(f"pruning rate is {rate}; it must be at least 0 and under 1.")
    pruned = copy.deepcopy(lower).requires_grad_(True).eval()
    example = example.to(next(pruned.parameters()).device)
    with torch.no_grad():
        features = pruned(example)
    if features.dim() != 4:
        raise ValueError(f"features at the split have the shape {tuple(features.shape)}; they must be (B, C, H, W).")
    if rate > 0:
        # It reads the output, and what is not to be pruned protects each width that reaches it.
        reader = nn.BatchNorm2d(features.shape[1], device=features.device)
        norms = [module for module in pruned.modules() if isinstance(module, nn.LayerNorm | nn.GroupNorm)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Torch-Pruning warns of parameters outside layers, which it leaves alone
            pruner = torch_pruning.pruner.BasePruner(
                nn.Sequential(pruned, reader),
                example,
                importance=filter_norm,
                pruning_ratio=rate,
                ignored_layers=[reader, *norms],
                round_to=CHANNEL_MULTIPLE,
                # Its defaults are dictionaries that all pruners share and fill with layers, which then live for ever.
                in_channel_groups={},
                out_channel_groups={},
            )
            pruner.step()
    return pruned.train(lower.training)


def filter_norm(group: Any) -> Tensor:
    """L1 norm of each filter of a Torch-Pruning group; the mean of them where layers share their output width.

    A filter is what makes one output channel of a convolution, or one output of a linear layer.
    """
    norms = [
        dependency.layer.weight.detach().abs().flatten(1).sum(dim=1)[indices]
        for dependency, indices in group
        if dependency.handler in _OUTPUTS
    ]
    return torch.stack(norms).mean(0)


def widths(lower: nn.Module) -> Widths:
    """[in, out] of each convolution and linear layer and [features] of each batch norm, by name: what `rebuild` needs.

    Layers without a width that `prune` may change have no entry.
    """
    found: Widths = {}
    for name, module in lower.named_modules():
        if isinstance(module, nn.Conv2d):
            found[name] = [module.in_channels, module.out_channels]
        elif isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear):
            found[name] = [module.in_features, module.out_features]
        elif isinstance(module, nn.BatchNorm2d):
            found[name] = [module.num_features]
    return found


def rebuild(lower: nn.Module, pruned: Widths) -> nn.Module:
    """`lower` in place, its layers made anew where the pruned widths differ, with parameters uninitialised.

    Raises ValueError when a name is missing or unknown, a width is under 1 or over the width in `lower`, or the
    widths of a depthwise convolution differ.
    """
    full = widths(lower)
    if pruned.keys() != full.keys():
        raise ValueError(f"pruned widths name other layers than the lower part: {sorted(pruned.keys() ^ full.keys())}")
    for name, sizes in pruned.items():
        old = lower.get_submodule(name)
        if (
            len(sizes) != len(full[name])
            or not all(1 <= new <= old for new, old in zip(sizes, full[name], strict=True))
            or (_is_depthwise(old) and sizes[0] != sizes[1])
        ):
            raise ValueError(f"pruned widths of '{name}' are {sizes}; the lower part has {full[name]}.")
        if sizes != full[name]:
            lower.set_submodule(name, _resized(old, sizes).train(old.training))
    return lower


def _resized(layer: nn.Module, sizes: list[int]) -> nn.Module:
    first, last = sizes[0], sizes[-1]
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(
            first,
            last,
            layer.kernel_size,  # type: ignore[arg-type]
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            dilation=layer.dilation,  # type: ignore[arg-type]
            groups=first if _is_depthwise(layer) else layer.groups,
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
            device=layer.weight.device,
        )
    if isinstance(layer, nn.Linear):
        return nn.Linear(first, last, bias=layer.bias is not None, device=layer.weight.device)
    assert isinstance(layer, nn.BatchNorm2d)
    return nn.BatchNorm2d(first, eps=layer.eps, momentum=layer.momentum, device=layer.weight.device)


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def example_input(channels: int, size: tuple[int, int]) -> Tensor:
    """(1, C, H, W) of zeros: pruning follows shapes, not values."""
    return torch.zeros(1, channels, *size)
