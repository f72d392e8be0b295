"""Weights in few bits, so that a deposit module holds many filters in few bytes.

Each filter's weights lie on a grid of its own (Jacob et al., Quantization and Training of Neural Networks, 2018). The
module trains on the grid and answers in float32.
"""

from dataclasses import dataclass, field
from typing import cast

import numpy
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

BITS = (16, 8, 6, 4)  # 16 is float16; the others are integers on a grid
_CLIPPED = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)  # the grid may end at one of these shares of the largest weight


class NotOnGrid(ValueError):
    """The stored codes do not belong to a grid of this shape and number of bits."""


@dataclass(frozen=True)
class Grid:
    """`scales`: (outputs,) of each weight, by name. A number is its scale times an integer up to ±(2^(bits-1) - 1)."""

    bits: int
    scales: dict[str, Tensor] = field(default_factory=dict)


class _OnGrid(nn.Module):
    """A parametrisation that rounds weights to the grid; the gradient passes straight through the rounding."""

    scale: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.steps = 2 ** (bits - 1) - 1
        self.register_buffer("scale", _best_scale(weight.detach(), self.steps))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.rounded(weight) - weight).detach()

    def rounded(self, weight: Tensor) -> Tensor:
        scale = self.scale.view(-1, *[1] * (weight.dim() - 1))
        levels = (weight / scale).round().clamp(-self.steps, self.steps)
        return levels * scale + 0.0  # turns -0.0, for which there is no code, into 0.0


def _best_scale(weight: Tensor, steps: int) -> Tensor:
    """(outputs,): for each filter, the scale of the share in `_CLIPPED` with the smallest squared error."""
    filters = weight.flatten(1)
    widest = filters.abs().amax(1, keepdim=True).clamp_min(1e-12) / steps
    candidates = torch.stack([widest * share for share in _CLIPPED])
    errors = ((filters / candidates).round().clamp(-steps, steps) * candidates - filters).square().sum(2)
    return candidates[errors.argmin(0), torch.arange(len(filters), device=weight.device), 0]


def _layers(part: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Name, layer and parameter of each weight that has one filter per output."""
    layers: list[tuple[str, nn.Module, str]] = []
    for name, module in part.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            layers.append((f"{name}.weight", module, "weight"))
        elif isinstance(module, nn.MultiheadAttention):
            layers.append((f"{name}.in_proj_weight", module, "in_proj_weight"))
    return layers


def attach(part: nn.Module, bits: int) -> None:
    """From now on, `part` computes and trains with weights on a grid of `bits`. 16 bits change nothing."""
    if bits < 16:
        for _, module, parameter in _layers(part):
            on_grid = _OnGrid(getattr(module, parameter), bits)
            parametrize.register_parametrization(module, parameter, on_grid)


@torch.no_grad()
def settle(part: nn.Module, bits: int) -> Grid:
    """End what `attach` began, and leave the weights on their grid.

    Other parameters with two or more dimensions are rounded to float16. Biases and norms stay as they are.
    """
    scales = {}
    if bits < 16:
        for name, module, parameter in _layers(part):
            learnt = cast(nn.ModuleDict, module.parametrizations)[parameter]
            assert isinstance(learnt, parametrize.ParametrizationList)
            on_grid = cast(_OnGrid, learnt[0])
            exact = on_grid.rounded(learnt.original)
            parametrize.remove_parametrizations(module, parameter)
            getattr(module, parameter).copy_(exact)
            scales[name] = on_grid.scale
    for name, weight in part.named_parameters():
        if weight.dim() > 1 and name not in scales:
            weight.copy_(weight.half())
    return Grid(bits, scales)


def pack(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The codes of a weight on its grid, `bits` each and without gaps, as uint8."""
    levels = (weight / scale.view(-1, *[1] * (weight.dim() - 1))).round().flatten()
    codes = (levels + 2 ** (bits - 1) - 1).to(torch.uint8).cpu().numpy()
    return torch.from_numpy(numpy.packbits(numpy.unpackbits(codes[:, None], axis=1)[:, 8 - bits :]))


def unpack(codes: Tensor, scale: Tensor, shape: tuple[int, ...], bits: int) -> Tensor:
    """The inverse of `pack`: the weight (outputs, ...). Raises `NotOnGrid` if codes or scales have another shape."""
    count = torch.Size(shape).numel()
    if codes.dtype != torch.uint8 or codes.shape != (-(-count * bits // 8),) or scale.shape != shape[:1]:
        raise NotOnGrid(
            f"codes of shape {list(codes.shape)} and scales of {list(scale.shape)} do not fit a weight {list(shape)}."
        )
    largest = 2 ** (bits - 1) - 1
    code_bits = numpy.unpackbits(codes.numpy(), count=count * bits).reshape(count, bits)
    levels: Tensor = torch.from_numpy(numpy.packbits(code_bits, axis=1)[:, 0] >> (8 - bits)).float() - largest
    if count and levels.max() > largest:
        raise NotOnGrid(f"a code is larger than the largest one of {bits} bits.")
    return levels.view(shape) * scale.view(-1, *[1] * (len(shape) - 1))


def stored_bytes(part: nn.Module, bits: int) -> int:
    """Roughly how many bytes the part needs in the vault."""
    on_grid: dict[str, Tensor] = {name: getattr(module, parameter) for name, module, parameter in _layers(part)}
    scale_bytes = 4 if bits < 16 else 0
    weights: int = sum(weight.numel() * bits // 8 + scale_bytes * len(weight) for weight in on_grid.values())
    rest = [(name, tensor) for name, tensor in part.state_dict().items() if name not in on_grid]
    others: int = sum(tensor.numel() * (2 if tensor.dim() > 1 else 4) for _, tensor in rest)
    return weights + others


def bits_within(part: nn.Module, budget: int) -> int:
    """The largest number of bits with which the part needs at most `budget` bytes; the smallest if none fits."""
    return next((bits for bits in BITS if stored_bytes(part, bits) <= budget), BITS[-1])
