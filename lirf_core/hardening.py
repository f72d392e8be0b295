"""Hardening: a target whose weights tell less of the deposited classes.

Suppressed logits hide knowledge that the weights still hold. So the target's answers among the preserved classes are
distilled into a copy of it that has no deposited rows and whose weights are mixed with fresh ones (Lee et al.,
Distillation Robustifies Unlearning, 2025). Eq. 8 allows this, because a target and a deposit module meet in their
logits only. No preserved image is needed: the copy learns from the deposit images and their proxies, cut into each
other. Its features are pressed to hold nothing besides its answers.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from lirf_core import losses
from lirf_core.class_rows import last_layer, without_rows
from lirf_core.compute import Compute, memory_errors
from lirf_core.config import HardeningConfig as HardeningConfig
from lirf_core.features import LastFeatures
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.network import SplitNetwork, freeze
from lirf_core.state import part_of, prefixed
from lirf_core.training import DepositDiverged, Progress, Stepwise, deterministic, take_steps


@dataclass(frozen=True, eq=False)
class Transfer:
    """What is distilled: the target's answers for its `preserved` classes, ascending, on `images`.

    images: uint8 (N, C, H, W): deposit images, proxies of them and, if there are any, preserved images.
    """

    images: Tensor
    preserved: list[int]
    preprocessing: Preprocessing


@dataclass(frozen=True)
class HardeningRun:
    """How a hardening runs; see `training.Run`."""

    config: HardeningConfig
    compute: Compute
    on_step: Callable[[Progress], None] = lambda _: None
    checkpoint: bytes | None = None


def harden(target: SplitNetwork, fresh: SplitNetwork, transfer: Transfer, run: HardeningRun) -> SplitNetwork:
    """A network with a row for each preserved class that answers like `target`, frozen. Its parts share nothing.

    fresh: an untrained network of the same architecture. On one machine, the same arguments give the same network.
    Raises `DepositDiverged`, `ForeignCheckpoint`, `OutOfMemory`, and what the callback of `run` raises.
    """
    with deterministic(run.compute), memory_errors():
        hardener = Hardener(target, fresh, transfer, run)
        take_steps(hardener, run.on_step, run.checkpoint)
        return hardener.network()


@torch.no_grad()
def mix(part: nn.Module, fresh: nn.Module, first: float, last: float) -> None:
    """theta <- (1 - a) theta + a theta_fresh in place, with a share a for each layer, from `first` to `last` by depth.

    A layer is a module that has parameters of its own, whatever its kind: a fresh network has the right noise for each.
    `fresh` has the same parameters as `part`. Statistics of batch norm are left as they are.
    """
    layers = [
        (module, other)
        for module, other in zip(part.modules(), fresh.modules(), strict=True)
        if any(True for _ in module.parameters(recurse=False))
    ]
    for number, (module, other) in enumerate(layers):
        share = first + (last - first) * number / max(1, len(layers) - 1)
        for parameter, noise in zip(module.parameters(recurse=False), other.parameters(recurse=False), strict=True):
            parameter.lerp_(noise.to(parameter.device), share)


def cut_and_mix(images: Tensor, generator: Generator) -> Tensor:
    """CutMix (Yun et al., 2019): a random box of each image is replaced by that of another image of the batch.

    The box's share of the area is uniform from 0 to 1. The teacher answers the mixed image, so no label is mixed.
    images: (B, C, H, W).
    """
    side = torch.rand((), generator=generator).sqrt().item()
    height, width = (round(side * length) for length in images.shape[2:])
    top, left = (
        int(torch.randint(length - inner + 1, (), generator=generator))
        for length, inner in zip(images.shape[2:], (height, width), strict=True)
    )
    others = torch.randperm(len(images), generator=generator).to(images.device)
    mixed = images.clone()
    rows, columns = slice(top, top + height), slice(left, left + width)
    mixed[:, :, rows, columns] = images[others, :, rows, columns]
    return mixed


class Hardener(Stepwise):
    """The network and the optimiser of a hardening, after `step` of `steps`."""

    def __init__(self, target: SplitNetwork, fresh: SplitNetwork, transfer: Transfer, run: HardeningRun) -> None:
        """Place both networks on the device and mix the student's weights with fresh ones."""
        cfg = self.config = run.config
        self.compute, self.transfer = run.compute, transfer
        self.images = transfer.images.to(run.compute.device)
        self.generator = Generator().manual_seed(cfg.seed)
        self.teacher = self.compute.place(copy.deepcopy(target))
        freeze(self.teacher)
        self.student = self.compute.place(without_rows(target, transfer.preserved)).requires_grad_(True).train()
        untrained = without_rows(fresh, transfer.preserved)
        mix(self.student.lower, untrained.lower, cfg.noise_first, cfg.noise_split)
        mix(self.student.upper, untrained.upper, cfg.noise_upper, cfg.noise_upper)
        self.average = copy.deepcopy(self.student)
        self.classes = torch.tensor(transfer.preserved, device=run.compute.device)
        self.step, self.order = 0, torch.empty(0, dtype=torch.int64)
        self.steps_per_epoch = -(-len(self.images) // cfg.batch_size)
        self.epochs = cfg.epochs_for(self.steps_per_epoch)
        self.steps = self.steps_per_epoch * self.epochs
        self.optimiser = torch.optim.SGD(
            self.student.parameters(),
            lr=cfg.learning_rate,
            momentum=cfg.momentum,
            weight_decay=cfg.weight_decay,
            nesterov=True,
        )
        self.learning_rates = OneCycleLR(
            self.optimiser, cfg.learning_rate, total_steps=max(self.steps, 2), pct_start=0.2, cycle_momentum=False
        )

    def _learn(self, numbers: Tensor) -> dict[str, Tensor]:
        """Follow the gradient of the distillation on the images of these numbers (B,). Returns the loss, detached."""
        cfg = self.config
        augmented = cfg.augmentation(self.images[numbers], self.generator)
        inputs = self.compute.inputs(augmented, self.transfer.preprocessing)
        if self.step < cfg.mixed * self.steps:
            inputs = cut_and_mix(inputs, self.generator)
        with self.compute.autocast(), LastFeatures(self.student.upper) as last:
            with torch.no_grad():
                teacher_logits = self.teacher(inputs).float()[:, self.classes]
            student_logits = self.student(inputs).float()
        everything = torch.arange(len(self.classes), device=inputs.device)
        kept = losses.distil(student_logits, teacher_logits, everything, cfg.temperature)
        unread = losses.unread(last.latest, last_layer(self.student.upper).weight)
        self.optimiser.zero_grad(set_to_none=True)
        (kept + cfg.lambda_ur * unread).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), cfg.max_gradient_norm)
        self.optimiser.step()
        self.learning_rates.step()
        self._follow()
        return {"kp": kept.detach(), "ur": unread.detach()}

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights, and with them the statistics, towards the student's."""
        followed = self.student.state_dict()
        for name, tensor in self.average.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(followed[name], 1 - self.config.average_decay)
            else:
                tensor.copy_(followed[name])

    def _learnt(self) -> dict[str, Tensor]:
        return {**prefixed("network", self.student.state_dict()), **prefixed("average", self.average.state_dict())}

    def _restore_learnt(self, state: dict[str, Tensor]) -> None:
        self.student.load_state_dict(part_of(state, "network"))
        self.average.load_state_dict(part_of(state, "average"))

    def network(self) -> SplitNetwork:
        """The finished network, frozen. Raises `DepositDiverged` if its weights are not finite."""
        if not all(torch.isfinite(tensor).all() for tensor in self.average.state_dict().values()):
            raise DepositDiverged("The hardening left weights that are not finite. Lower learning_rate.")
        freeze(self.average)
        return self.average
