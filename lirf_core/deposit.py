"""Deposit: the fine-tuning of eq. 9, on the deposit set alone."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from lirf_core import losses, pruning
from lirf_core.compute import Compute
from lirf_core.data import Augmentation, Preprocessing
from lirf_core.network import SplitNetwork, digest, freeze
from lirf_core.recover import DepositModule


class DepositDiverged(RuntimeError):
    """A loss is no longer finite."""


@dataclass(frozen=True)
class DepositConfig:
    """Every choice of a deposit; stored with its result. Weights are those of eq. 2 and 9.

    removal: `random` is eq. 2 as written; `suppress` only pushes the deposited logits down, which forgets faster and
    keeps more. epochs over the deposit set; `batch_size` images a step; `learning_rate` is the peak of one cycle.
    """

    removal: Literal["suppress", "random"] = "suppress"
    lambda_at: float = 0.05
    lambda_kp: float = 10.0
    lambda_pt: float = 10.0
    lambda_re: float = 0.1
    temperature: float = 10.0
    attention_threshold: float = 0.0
    pruning_rate: float = 0.5
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.003
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a deposit is, both counted from 1: `epoch` of `epochs`, `step` of `steps`; and the last step's losses."""

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: dict[str, Tensor]

    def loss_values(self) -> dict[str, float]:
        """Waits for the device. Raises `DepositDiverged`."""
        values = {name: round(value.item(), 6) for name, value in self.losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise DepositDiverged(
                f"the loss was no longer finite in epoch {self.epoch} of {self.epochs}; "
                "lower learning_rate or lambda_at, or raise batch_size."
            )
        return values


@dataclass(frozen=True)
class DepositResult:
    """The target network, whose upper part is the original's own, and the deposit module. Both in eval mode."""

    target: SplitNetwork
    module: DepositModule


def deposit(
    original: SplitNetwork,
    images: Tensor,
    labels: Tensor,
    deposited: Sequence[int],
    preserved: Sequence[int],
    preprocessing: Preprocessing,
    config: DepositConfig,
    compute: Compute,
    on_step: Callable[[Progress], None] = lambda _: None,
) -> DepositResult:
    """Splits the knowledge of `original` (which may already be a target network) into target and deposit module.

    images: uint8 (N, C, H, W) of deposited classes only; labels: int64 (N,). `preserved` are the classes that the
    network answers for after this deposit. `on_step` is called after each step and stops the deposit by raising.
    The result depends on the arguments alone (on one machine). Raises `DepositDiverged`, and ValueError for a deposit
    set that is empty or has images of another class, or when no class would be left.
    """
    _check_set(images, labels, deposited, preserved)
    shuffler = Generator().manual_seed(config.seed)
    trainer = _Trainer(original, deposited, preserved, preprocessing, config, compute)
    images, labels = images.to(compute.device), labels.to(compute.device)
    steps_per_epoch = -(-len(images) // config.batch_size)
    steps = steps_per_epoch * config.epochs
    trainer.schedule(steps)
    step = 0
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        for epoch in range(1, config.epochs + 1):
            # Equal parts rather than a small rest: batch norm learns its statistics from each batch.
            for chosen in torch.randperm(len(images), generator=shuffler).tensor_split(steps_per_epoch):
                step += 1
                chosen = chosen.to(compute.device)
                terms = trainer.step(images[chosen], labels[chosen], shuffler)
                progress = Progress(epoch, config.epochs, step, steps, terms)
                on_step(progress)
            progress.loss_values()
    return trainer.result()


def _check_set(images: Tensor, labels: Tensor, deposited: Sequence[int], preserved: Sequence[int]) -> None:
    if not len(images):
        raise ValueError("the deposit set has no images.")
    if not preserved:
        raise ValueError("no class is left to preserve; deposit fewer classes.")
    if foreign := set(labels.tolist()) - set(deposited):
        raise ValueError(f"the deposit set has images of classes {sorted(foreign)}, which are not to be deposited.")


class _Trainer:
    """The networks and the optimiser of one deposit; `step` is eq. 9."""

    def __init__(
        self,
        original: SplitNetwork,
        deposited: Sequence[int],
        preserved: Sequence[int],
        preprocessing: Preprocessing,
        config: DepositConfig,
        compute: Compute,
    ) -> None:
        self.config, self.compute, self.preprocessing = config, compute, preprocessing
        self.upper_digest = digest(original.upper)
        self.classes = sorted(deposited)
        self.original = compute.place(copy.deepcopy(original))
        freeze(self.original)
        self.upper = self.original.upper
        example = pruning.example_input(preprocessing.channels, (preprocessing.height, preprocessing.width))
        self.target_lower = compute.place(copy.deepcopy(original.lower).requires_grad_(True)).train()
        self.module_lower = compute.place(pruning.prune(original.lower, config.pruning_rate, example)).train()
        self.deposited = torch.tensor(self.classes, device=compute.device)
        self.preserved = torch.tensor(sorted(preserved), device=compute.device)
        self.random_classes = torch.cat([self.deposited, self.preserved])
        self.parameters = [*self.target_lower.parameters(), *self.module_lower.parameters()]
        self.optimiser = torch.optim.SGD(
            self.parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def schedule(self, steps: int) -> None:
        self.learning_rates = OneCycleLR(
            self.optimiser, self.config.learning_rate, total_steps=max(steps, 2), cycle_momentum=False
        )

    def step(self, images: Tensor, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """images: uint8 (B, C, H, W); labels: (B,). Returns the terms of eq. 9, detached."""
        cfg = self.config
        inputs = self.preprocessing.normalise(cfg.augmentation(images, generator))
        inputs = inputs.contiguous(memory_format=self.compute.memory_format)
        choice = torch.randint(len(self.random_classes), labels.shape, generator=generator)
        random_labels = self.random_classes[choice.to(labels.device)]
        with self.compute.autocast():
            with torch.no_grad():
                original_features = self.original.lower(inputs)
                original_logits = self.upper(original_features)
            target_features = self.target_lower(inputs)
            joined = self.upper(torch.cat([target_features, self.module_lower(inputs)]))
        target_logits, module_logits = joined.float().chunk(2)
        recover_logits = losses.recover_logits(target_logits, module_logits, self.deposited)

        if cfg.removal == "random":
            removed = losses.random_removal(target_logits, random_labels)
        else:
            removed = losses.suppression(target_logits, self.preserved)
        attention = losses.attention_transfer(target_features, original_features, cfg.attention_threshold)
        kr = losses.knowledge_removal(removed, attention, cfg.lambda_at)
        kp = losses.knowledge_preservation(target_logits, original_logits, self.preserved, cfg.temperature)
        re = losses.recovery(recover_logits, labels)
        pt = losses.partial_transfer(module_logits, original_logits, self.deposited, cfg.temperature)
        total = kr + cfg.lambda_kp * kp + cfg.lambda_re * re + cfg.lambda_pt * pt

        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.learning_rates.step()
        return {
            name: term.detach()
            for name, term in {"total": total, "kr": kr, "kp": kp, "re": re, "pt": pt, "at": attention}.items()
        }

    def result(self) -> DepositResult:
        target, module = SplitNetwork(self.target_lower, self.upper), nn.ModuleList([self.module_lower])
        freeze(target)
        freeze(module)
        for state in (target.state_dict(), module.state_dict()):
            if not all(torch.isfinite(tensor).all() for tensor in state.values()):
                raise DepositDiverged("the last step left numbers that are not finite; lower learning_rate.")
        return DepositResult(target, DepositModule(self.module_lower, self.classes, self.upper_digest))
