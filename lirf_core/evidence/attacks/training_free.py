"""Attacks without a gradient: by the answers as they are, by batch norm's statistics and by prototypes."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.network import SplitNetwork


def with_statistics_of(
    network: SplitNetwork, images: Tensor, preprocessing: Preprocessing, compute: Compute, batch: int = 256
) -> SplitNetwork | None:
    """A copy whose batch norm has the statistics of these images; None if the network has no batch norm.

    A deposit moves these statistics towards the deposit set, so they hide knowledge that no weight has lost.
    images: uint8 (N, C, H, W).
    """
    moved = compute.place(copy.deepcopy(network)).eval()
    norms = [module for module in moved.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
        norm.train()
    with torch.no_grad(), compute.autocast():
        for chunk in images.tensor_split(-(-len(images) // batch)):
            moved(compute.inputs(chunk, preprocessing))
    return moved.eval() if norms else None


def prototypes(features: Tensor, labels: Tensor, classes: Sequence[int]) -> Tensor:
    """The mean of each class's features, each scaled to length 1. features: (N, F); labels: (N,). Returns (K, F)."""
    unit = F.normalize(features, dim=1)
    return torch.stack([F.normalize(unit[labels == index].mean(0), dim=0) for index in classes])


@torch.no_grad()
def write_prototypes(layer: nn.Linear, rows: Tensor, deposited: Sequence[int], preserved: Sequence[int]) -> None:
    """Replace the deposited rows by prototypes (D, F), as long as the preserved rows (Ha et al., 2025)."""
    length = layer.weight[list(preserved)].norm(dim=1).mean()
    layer.weight[list(deposited)] = (length * rows).to(layer.weight)
    if layer.bias is not None:
        layer.bias[list(deposited)] = layer.bias[list(preserved)].mean()


def with_nearest_prototypes(
    logits: Tensor, features: Tensor, means: Tensor, deposited: Sequence[int], scale: float
) -> Tensor:
    """The logits (N, classes), but the deposited ones are cosines to the deposited prototypes, times `scale`.

    features: (N, F); means: (classes, F). Returns (N, classes).
    """
    is_deposited = torch.zeros(len(means), dtype=torch.bool).index_fill_(0, torch.tensor(sorted(deposited)), True)
    return logits.where(~is_deposited, scale * centred_cosines(features, means))


def centred_cosines(features: Tensor, means: Tensor) -> Tensor:
    """Cosines to the prototypes, seen from their centre: what all classes share says nothing of them.

    features: (N, F); means: (classes, F). Returns (N, classes).
    """
    centre = means.mean(0)
    return F.normalize(F.normalize(features, dim=1) - centre, dim=1) @ F.normalize(means - centre, dim=1).T
