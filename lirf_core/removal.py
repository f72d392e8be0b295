"""What a target network is to lose and to keep, in one step: of whole classes (eq. 2 to 4), or of single images."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from lirf_core import losses
from lirf_core.config import DepositConfig
from lirf_core.network import SplitNetwork
from lirf_core.probe_adversary import ProbeAdversary

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Outputs:
    """What a network makes of a batch: its features at the split and before the last layer, and its logits."""

    split: Tensor
    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Batch:
    """`count` deposit images with their `numbers` in the deposit set and their `labels`, then proxies without."""

    count: int
    numbers: Tensor
    labels: Tensor
    target: Outputs
    original: Outputs

    def features_lost(self) -> Tensor:
        """How far the proxies' features are from the original's: at the split, and before the last layer."""
        shown = slice(self.count, None)
        at_split = losses.feature_distance(self.target.split[shown], self.original.split[shown])
        return at_split + losses.feature_distance(self.target.features[shown], self.original.features[shown])


class Removal(Protocol):
    """`goals` are the classes that proxies are made for; `learns_statistics`: batch norm follows the deposit set."""

    goals: Tensor
    learns_statistics: bool

    def terms(self, batch: Batch, generator: Generator) -> Terms:
        """The terms of eq. 9 that the target learns from, by their name."""

    def state(self) -> dict[str, Tensor]:
        """What it has learnt so far, for a checkpoint."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from a `state`."""


class ClassRemoval:
    """Eq. 2 to 4: the deposited classes are lost, the answers among the preserved ones kept."""

    learns_statistics = True

    def __init__(self, network: SplitNetwork, deposited: Tensor, preserved: Tensor, config: DepositConfig) -> None:
        """deposited, preserved: class indices in ascending order, on the device of `network`."""
        self._config, self.goals = config, preserved
        self._all = torch.cat([deposited, preserved])
        self._adversary = ProbeAdversary(network, deposited)

    def terms(self, batch: Batch, generator: Generator) -> Terms:
        cfg, count = self._config, batch.count
        target, original = batch.target, batch.original
        choice = torch.randint(len(self._all), (count,), generator=generator)
        if cfg.removal == "random":
            removed = losses.random_removal(target.logits[:count], self._all[choice.to(self._all.device)])
        else:
            removed = losses.suppression(target.logits[:count], self.goals)
        attention = losses.attention_transfer(target.split[:count], original.split[:count], cfg.attention_threshold)
        self._adversary.learn(target.features[:count], batch.labels)
        known = self._adversary.logits(target.features[:count])
        kept = losses.knowledge_preservation(target.logits, original.logits, self.goals, cfg.temperature)
        return {
            "kr": losses.knowledge_removal(removed, attention, cfg.lambda_at),
            "pr": losses.probe_removal(known),
            "kp": kept,
            "fp": batch.features_lost(),
            "at": attention,
        }

    def state(self) -> dict[str, Tensor]:
        return self._adversary.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        self._adversary.restore(state)


class SampleRemoval:
    """The deposit images are to be answered as images that were never seen; their classes stay.

    No statistics are learnt: the network is to stay what it is for every other image.
    """

    learns_statistics = False

    def __init__(self, classes: Tensor, wanted: Tensor, config: DepositConfig) -> None:
        """classes: all class indices; wanted: the margin (N,) that each deposit image is to have."""
        self._config, self.goals, self._wanted = config, classes, wanted

    def terms(self, batch: Batch, generator: Generator) -> Terms:
        cfg, count = self._config, batch.count
        target, original = batch.target, batch.original
        others = ~torch.nn.functional.one_hot(batch.labels, target.logits.shape[1]).bool()
        answered, wanted = (outputs.logits[:count][others].view(count, -1) for outputs in (target, original))
        everything = torch.arange(answered.shape[1], device=answered.device)
        kept = losses.distil(answered, wanted, everything, cfg.temperature)
        if len(target.logits) > count:
            shown = losses.distil(target.logits[count:], original.logits[count:], self.goals, cfg.temperature)
            kept = (kept + shown) / 2
        return {
            "kr": losses.unseen(target.logits[:count], batch.labels, self._wanted[batch.numbers]),
            "kp": kept,
            "fp": batch.features_lost(),
        }

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        pass
