"""Structural pruning of the lower part by L1 filter norm (paper, eq. 5; Li et al., Pruning Filters for Efficient
ConvNets). The output width stays, so that the shared upper part still fits."""

import copy
import warnings
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

Widths = dict[str, list[int]]

# Kernels of CPUs and tensor cores work in eights; and oneDNN's gradient of a strided 1x1 convolution writes outside its
# buffer where the channels are no multiple of 8 (torch 2.13, AVX2): see docs/decisions/0007.
CHANNEL_MULTIPLE = 8


def prune(lower: nn.Module, rate: float, example: Tensor) -> nn.Module:
    """A copy of `lower` without the `rate` (0 to under 1) of its filters that have the smallest L1 norm.

    What stays of each width is rounded to a multiple of 8. Filters whose width reaches the output are kept.
    example: (1, C, H, W), any input of the right size.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"pruning rate is {rate}; it must be at least 0 and under 1.")
    pruned = copy.deepcopy(lower).requires_grad_(True)
    if rate == 0:
        return pruned
    convolutions = [module for module in pruned.modules() if isinstance(module, nn.Conv2d)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Torch-Pruning warns of the unwrapped output, which is what we protect
        pruner = torch_pruning.pruner.BasePruner(
            pruned,
            example.to(next(pruned.parameters()).device),
            importance=filter_norm,
            pruning_ratio=rate,
            ignored_layers=convolutions[-1:],
            round_to=CHANNEL_MULTIPLE,
        )
        pruner.step()
    return pruned


def filter_norm(group: Any) -> Tensor:
    """L1 norm of each filter of a Torch-Pruning group; the mean of them where convolutions share their output width."""
    norms = [
        dependency.layer.weight.detach().abs().sum(dim=(1, 2, 3))[indices]
        for dependency, indices in group
        if dependency.handler == torch_pruning.prune_conv_out_channels
    ]
    return torch.stack(norms).mean(0)


def widths(lower: nn.Module) -> Widths:
    """[in, out] of each convolution and [features] of each batch norm, by name: what `rebuild` needs."""
    found: Widths = {}
    for name, module in lower.named_modules():
        if isinstance(module, nn.Conv2d):
            found[name] = [module.in_channels, module.out_channels]
        elif isinstance(module, nn.BatchNorm2d):
            found[name] = [module.num_features]
    return found


def rebuild(lower: nn.Module, pruned: Widths) -> nn.Module:
    """`lower` in place, its convolutions and batch norms made anew with the pruned widths, parameters uninitialised.

    Raises ValueError when a name is missing or unknown, or a width is under 1 or over the width in `lower`.
    """
    full = widths(lower)
    if pruned.keys() != full.keys():
        raise ValueError(f"pruned widths name other layers than the lower part: {sorted(pruned.keys() ^ full.keys())}")
    for name, sizes in pruned.items():
        if len(sizes) != len(full[name]) or not all(
            1 <= new <= old for new, old in zip(sizes, full[name], strict=True)
        ):
            raise ValueError(f"pruned widths of '{name}' are {sizes}; the lower part has {full[name]}.")
        old = lower.get_submodule(name)
        if isinstance(old, nn.Conv2d):
            new: nn.Module = _resized(old, *sizes)
        else:
            new = nn.BatchNorm2d(sizes[0], device=next(old.parameters()).device)
        lower.set_submodule(name, new)
    return lower


def _resized(conv: nn.Conv2d, in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels,
        out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
        device=conv.weight.device,
    )


def example_input(channels: int, size: tuple[int, int]) -> Tensor:
    """(1, C, H, W) of zeros: pruning follows shapes, not values."""
    return torch.zeros(1, channels, *size)
