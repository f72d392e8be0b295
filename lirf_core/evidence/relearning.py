"""Relearning: how soon a network knows the deposited classes again if it is fine-tuned on a few images.

Hidden knowledge comes back within a few steps; knowledge that is gone must be learnt again. The yardstick is a network
of the same architecture that was trained on the preserved classes only.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from lirf_core import class_rows
from lirf_core.compute import Compute
from lirf_core.evidence.answers import require_finite
from lirf_core.images.preprocessing import Augmentation, Preprocessing
from lirf_core.metrics import accuracy, logits_of
from lirf_core.network import SplitNetwork

BATCH = 64
LEARNING_RATE = 0.01
STEPS = (0, 5, 10, 20, 40, 80)


@dataclass(frozen=True)
class RelearningPoint:
    """Held-out accuracy in percent after `step` steps, by argmax over all raw logits."""

    step: int
    preserved: float | None
    deposited: float | None


@dataclass(frozen=True)
class FineTuning:
    """How an attacker trains every layer: `steps` (ascending) after which the network is asked, and their optimiser.

    SGD has a momentum of 0.9 and a weight decay of 5e-4, Adam its defaults.
    """

    steps: Sequence[int] = STEPS
    learning_rate: float = LEARNING_RATE
    batch_size: int = BATCH
    optimiser: Literal["sgd", "adam"] = "sgd"
    seed: int = 0

    def optimiser_of(self, network: nn.Module) -> Optimizer:
        if self.optimiser == "adam":
            return Adam(network.parameters(), lr=self.learning_rate)
        return SGD(network.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=5e-4)


def fine_tuned(
    network: SplitNetwork,
    few: tuple[Tensor, Tensor],
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    compute: Compute,
    how: FineTuning,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, SplitNetwork]]:
    """Fine-tune a copy on the attacker's `few` images, and yield it after each of the steps at which it is asked.

    few: uint8 (N, C, H, W) and labels (N,). A row that is absent begins as the mean of the others. The caller must not
    change the copy. `on_step` can raise an exception to stop.
    """
    generator = Generator().manual_seed(how.seed)
    learner = compute.place(copy.deepcopy(network)).requires_grad_(True)
    class_rows.renew(learner)
    images, labels = few[0].to(compute.device), few[1].to(compute.device)
    optimiser = how.optimiser_of(learner)
    for step in range(how.steps[-1] + 1):
        if step in how.steps:
            yield step, learner
        if step == how.steps[-1]:
            break
        learner.train()
        chosen = torch.randint(len(labels), (how.batch_size,), generator=generator).to(compute.device)
        with compute.autocast():
            answers = learner(compute.inputs(augmentation(images[chosen], generator), preprocessing))
        loss = F.cross_entropy(answers.float(), labels[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        on_step()


def relearning_curve(
    network: SplitNetwork,
    few: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    deposited: Collection[int],
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    compute: Compute,
    steps: Sequence[int] = STEPS,
    seed: int = 0,
    on_step: Callable[[], None] = lambda: None,
) -> list[RelearningPoint]:
    """Fine-tune every layer of a copy on the attacker's `few` images, in batches of 64, by SGD with momentum.

    few, held_out: uint8 (N, C, H, W) and labels (N,), of every class: fine-tuning on deposited images only would make a
    network that answers nothing else. steps: ascending. `on_step` can raise an exception to stop. Raises
    `CannotBeMeasured` if the fine-tuning diverges.
    """
    curve = []
    how = FineTuning(steps, LEARNING_RATE, seed=seed)
    for step, learner in fine_tuned(network, few, preprocessing, augmentation, compute, how, on_step):
        logits = logits_of(learner, held_out[0], preprocessing, compute, on_step)
        require_finite(logits)
        held_out_accuracy = accuracy(logits, held_out[1], deposited)
        curve.append(RelearningPoint(step, held_out_accuracy.preserved, held_out_accuracy.deposited))
    return curve
