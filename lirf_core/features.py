"""Features at the split and of the last layer: what a network knows, even if its logits do not show it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lirf_core.class_rows import last_layer
from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Preprocessing


@dataclass(frozen=True)
class Answers:
    """`features` (N, F) are the input of the last linear layer, `logits` (N, classes) its output; `split` (N, C) is the
    lower part's output, averaged over the positions of each channel. float32, CPU.
    """

    features: Tensor
    logits: Tensor
    split: Tensor


class LastFeatures:
    """A context manager. `latest` is the last linear layer's input (B, F) in the upper part's latest run."""

    latest: Tensor

    def __init__(self, upper: nn.Module) -> None:
        self._layer = last_layer(upper)

    def __enter__(self) -> "LastFeatures":
        self._hook = self._layer.register_forward_pre_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _keep(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self.latest = inputs[0]


@torch.inference_mode()
def answers_of(
    lower: nn.Module,
    upper: nn.Module,
    images: Tensor,
    preprocessing: Preprocessing,
    compute: Compute,
    batch: int = 250,
    on_batch: Callable[[], None] = lambda: None,
) -> Answers:
    """Run a network over images: uint8 (N, C, H, W). `lower` is a network's or a deposit module's, in eval mode.

    `on_batch` is called after each batch and can raise an exception to stop the run.
    """
    features, logits, splits = [], [], []
    with LastFeatures(upper) as last:
        for chunk in torch.split(images, batch):
            with compute.autocast():
                split = lower(compute.inputs(chunk, preprocessing))
                answer = upper(split)
            features.append(last.latest.float().cpu())
            logits.append(answer.float().cpu())
            splits.append(split.float().mean((2, 3)).cpu())
            on_batch()
    return Answers(torch.cat(features), torch.cat(logits), torch.cat(splits))
