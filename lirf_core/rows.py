"""The last layer's rows, one for each class that a network can answer."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from lirf_core.features import classifier
from lirf_core.network import SplitNetwork


def without_rows(network: SplitNetwork, kept: Sequence[int]) -> SplitNetwork:
    """A copy that has only the rows of the classes `kept`, in ascending order."""
    smaller = copy.deepcopy(network)
    _select(classifier(smaller.upper), torch.tensor(sorted(kept)))
    return smaller


def with_rows(network: SplitNetwork, answered: Sequence[int], classes: int) -> SplitNetwork:
    """A copy that has a row for each of `classes` classes.

    answered: the class of each row that `network` has, ascending. The other rows are the mean of these, which says
    nothing of their classes.
    """
    larger = copy.deepcopy(network)
    layer = classifier(larger.upper)
    present = torch.tensor(sorted(answered))
    mean = layer.weight.detach().mean(0), None if layer.bias is None else layer.bias.detach().mean(0)
    place_of = torch.zeros(classes, dtype=torch.int64).index_copy_(0, present, torch.arange(len(present)))
    absent = torch.ones(classes, dtype=torch.bool).index_fill_(0, present, False)
    _select(layer, place_of)
    with torch.no_grad():
        layer.weight[absent] = mean[0]
        if layer.bias is not None:
            layer.bias[absent] = mean[1]
    return larger


@torch.no_grad()
def _select(layer: nn.Linear, rows: torch.Tensor) -> None:
    needs_gradient = layer.weight.requires_grad
    rows = rows.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight[rows].clone(), needs_gradient)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[rows].clone(), needs_gradient)
    layer.out_features = len(rows)
