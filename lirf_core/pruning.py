"""Structural pruning of the lower part by L1 filter norm (paper, eq. 5; Li et al., Pruning Filters for Efficient
ConvNets). The output width does not change, so that the shared upper part still fits."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

Widths = dict[str, list[int]]

# CPU kernels and tensor cores work on groups of 8. Also, oneDNN's gradient of a strided 1x1 convolution writes outside
# its buffer if the channels are not a multiple of 8 (torch 2.13, AVX2): see docs/decisions/0007.
CHANNEL_MULTIPLE = 8


def prune(lower: nn.Module, rate: float, example: Tensor) -> nn.Module:
    """A copy of `lower` without the share `rate` (0 to under 1) of its filters, those with the smallest L1 norms.

    Each remaining width is rounded to a multiple of 8; a width that would become 0 is not pruned. Neither is a width
    that reaches the output or passes a layer norm or group norm. So in a ViT or ConvNeXt only the hidden widths shrink,
    because Torch-Pruning does not follow class tokens and layer scales, which have the residual stream's width.
    example: (1, C, H, W), any input of the right size. Raises ValueError if the features are not (1, C', H', W').
    """
    import torch_pruning  # here, because the API only needs the functions below

    if not 0 <= rate < 1:
        raise ValueError(f"The pruning rate is {rate}; it must be at least 0 and less than 1.")
    pruned = copy.deepcopy(lower).requires_grad_(True).eval()
    example = example.to(next(pruned.parameters()).device)
    with torch.no_grad():
        features = pruned(example)
    if features.dim() != 4:
        raise ValueError(f"The features at the split have shape {tuple(features.shape)}; they must be (B, C, H, W).")
    if rate > 0:
        # This layer reads the output and is not pruned, which protects every width that reaches it.
        reader = nn.BatchNorm2d(features.shape[1], device=features.device)
        norms = [module for module in pruned.modules() if isinstance(module, nn.LayerNorm | nn.GroupNorm)]
        with warnings.catch_warnings():
            # Torch-Pruning warns about parameters outside layers, which it does not change.
            warnings.simplefilter("ignore")
            pruner = torch_pruning.pruner.BasePruner(
                nn.Sequential(pruned, reader),
                example,
                importance=filter_norm,
                pruning_ratio=rate,
                ignored_layers=[reader, *norms],
                round_to=CHANNEL_MULTIPLE,
                # The defaults are dictionaries that all pruners share and fill with layers, which are never freed.
                in_channel_groups={},
                out_channel_groups={},
            )
            pruner.step()
    return pruned.train(lower.training)


def filter_norm(group: Any) -> Tensor:
    """L1 norm of each filter of a Torch-Pruning group; their mean if several layers share an output width.

    A filter computes one output channel of a convolution, or one output of a linear layer.
    """
    import torch_pruning

    prune_outputs = (
        torch_pruning.prune_conv_out_channels,
        torch_pruning.prune_depthwise_conv_out_channels,
        torch_pruning.prune_linear_out_channels,
    )
    norms = [
        dependency.layer.weight.detach().abs().flatten(1).sum(dim=1)[indices]
        for dependency, indices in group
        if dependency.handler in prune_outputs
    ]
    return torch.stack(norms).mean(0)


def widths(lower: nn.Module) -> Widths:
    """[in, out] of each convolution and linear layer and [features] of each batch norm, by name, for `rebuild`.

    Layers whose width `prune` never changes have no entry.
    """
    sizes: Widths = {}
    for name, module in lower.named_modules():
        if isinstance(module, nn.Conv2d):
            sizes[name] = [module.in_channels, module.out_channels]
        elif isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear):
            sizes[name] = [module.in_features, module.out_features]
        elif isinstance(module, nn.BatchNorm2d):
            sizes[name] = [module.num_features]
    return sizes


def rebuild(lower: nn.Module, pruned: Widths) -> nn.Module:
    """Replace, in place, the layers of `lower` whose pruned widths differ. New parameters are uninitialised.

    Raises ValueError if a name is missing or unknown, if a width is under 1 or over the width in `lower`, or if a
    depthwise convolution has two different widths.
    """
    full = widths(lower)
    if pruned.keys() != full.keys():
        difference = sorted(pruned.keys() ^ full.keys())
        raise ValueError(f"The pruned widths and the lower part name different layers: {difference}.")
    for name, sizes in pruned.items():
        old = lower.get_submodule(name)
        if (
            len(sizes) != len(full[name])
            or not all(1 <= new <= old for new, old in zip(sizes, full[name], strict=True))
            or (_is_depthwise(old) and sizes[0] != sizes[1])
        ):
            raise ValueError(f"The pruned widths of '{name}' are {sizes}; the lower part has {full[name]}.")
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
    """Zeros of shape (1, C, H, W): pruning depends on shapes, not on values."""
    return torch.zeros(1, channels, *size)
