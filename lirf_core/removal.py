"""The loss terms that make a network forget and keep: whole classes (eq. 2 to 4), or single images."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from lirf_core import losses
from lirf_core.config import DEPOSITED_WEIGHT, DepositConfig
from lirf_core.network import SplitNetwork, is_depthwise
from lirf_core.probe_adversary import ProbeAdversary

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Outputs:
    """A network's outputs for a batch: its features at the split and before the last layer, and its logits."""

    split: Tensor
    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Batch:
    """`count` deposit images, with their `numbers` in the deposit set and their `labels`.

    Proxies follow, and then preserved images, if there are any: the target keeps the original's outputs on both.
    original: the original's features, and the teacher's logits, which are the original's if there is no other teacher.
    foreign: the places of the proxies of classes that the target must not answer; it keeps no features of these.
    """

    count: int
    numbers: Tensor
    labels: Tensor
    target: Outputs
    original: Outputs
    foreign: Tensor

    def feature_preservation(self) -> Tensor:
        """How far the features of preserved images and of their proxies are from the original's, at the split plus
        before the last layer.
        """
        kept: slice | Tensor = slice(self.count, None)
        if len(self.foreign):
            kept = torch.ones(len(self.target.logits), dtype=torch.bool, device=self.labels.device)
            kept[: self.count] = kept[self.foreign] = False
        at_split = losses.feature_distance(self.target.split[kept], self.original.split[kept])
        return at_split + losses.feature_distance(self.target.features[kept], self.original.features[kept])


class Removal(Protocol):
    """`goals` are the classes that proxies imitate, `foreign` those of them that the network must not answer.

    `learns_statistics`: batch norm adapts to the deposit set. `is_adaptive`: AdamW takes the steps instead of SGD.
    """

    goals: Tensor
    foreign: Tensor
    learns_statistics: bool
    is_adaptive: bool

    def terms(self, batch: Batch, generator: Generator) -> Terms:
        """The target's terms of eq. 9, by name."""

    def state(self) -> dict[str, Tensor]:
        """What it has learnt so far, to be stored in a checkpoint."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""


class ClassRemoval:
    """Eq. 2 to 4: forget the deposited classes, keep the answers among the preserved ones.

    Classes of other deposits are foreign: a network of several deposits must not answer one of theirs for another.
    A depthwise network (`network.is_depthwise`) keeps the original's statistics and learns with AdamW.
    """

    def __init__(
        self, network: SplitNetwork, deposited: Tensor, preserved: Tensor, foreign: Tensor, config: DepositConfig
    ) -> None:
        """deposited, preserved, foreign: class indices in ascending order, on the device of `network`."""
        self._config, self._preserved, self.foreign = config, preserved, foreign
        self.goals = torch.cat([preserved, foreign])
        self._all = torch.cat([deposited, preserved])
        self._adversary = ProbeAdversary(network, deposited)
        self.is_adaptive = is_depthwise(network.lower)
        self.learns_statistics = not self.is_adaptive

    def terms(self, batch: Batch, generator: Generator) -> Terms:
        cfg, count = self._config, batch.count
        target, original = batch.target, batch.original
        choice = torch.randint(len(self._all), (count,), generator=generator)
        if cfg.removal == "random":
            removed = losses.random_removal(target.logits[:count], self._all[choice.to(self._all.device)])
        else:
            unanswered = torch.cat([target.logits[:count], target.logits[batch.foreign]])
            removed = losses.suppression(unanswered, self._preserved)
        attention = losses.attention_transfer(target.split[:count], original.split[:count], cfg.attention_threshold)
        self._adversary.learn(target.features[:count], batch.labels)
        probe_logits = self._adversary.logits(target.features[:count])
        weights = None
        if self.is_adaptive and len(target.logits) > count:
            weights = torch.ones(len(target.logits), device=target.logits.device)
            weights[:count] = DEPOSITED_WEIGHT
        preservation = losses.knowledge_preservation(
            target.logits, original.logits, self._preserved, cfg.temperature, weights
        )
        return {
            "kr": losses.knowledge_removal(removed, attention, cfg.lambda_at),
            "pr": losses.probe_removal(probe_logits),
            "kp": preservation,
            "fp": batch.feature_preservation(),
            "at": attention,
        }

    def state(self) -> dict[str, Tensor]:
        return self._adversary.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        self._adversary.restore(state)


class SampleRemoval:
    """Answer the deposit images as if the network had never seen them; keep their classes.

    Batch norm learns no statistics, because nothing may change for any other image.
    """

    learns_statistics = False
    is_adaptive = False

    def __init__(self, classes: Tensor, margins: Tensor, config: DepositConfig) -> None:
        """classes: all class indices; margins: (N,), the one that each deposit image should get."""
        self._config, self.goals, self._margins = config, classes, margins
        self.foreign = classes[:0]

    def terms(self, batch: Batch, generator: Generator) -> Terms:
        cfg, count = self._config, batch.count
        target, original = batch.target, batch.original
        is_other_class = ~torch.nn.functional.one_hot(batch.labels, target.logits.shape[1]).bool()
        student, teacher = (outputs.logits[:count][is_other_class].view(count, -1) for outputs in (target, original))
        everything = torch.arange(student.shape[1], device=student.device)
        preservation = losses.distil(student, teacher, everything, cfg.temperature)
        if len(target.logits) > count:
            on_proxies = losses.distil(target.logits[count:], original.logits[count:], self.goals, cfg.temperature)
            preservation = (preservation + on_proxies) / 2
        return {
            "kr": losses.margin_distance(target.logits[:count], batch.labels, self._margins[batch.numbers]),
            "kp": preservation,
            "fp": batch.feature_preservation(),
        }

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        pass
