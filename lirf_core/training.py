"""Trains a target network and a deposit module together (eq. 9), or a network that is only to forget."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import OneCycleLR

from lirf_core import checkpoints, losses, quantisation
from lirf_core.checkpoints import Position
from lirf_core.compute import Compute, memory_errors
from lirf_core.config import DepositConfig
from lirf_core.features import LastFeatures
from lirf_core.images.data import Preprocessing
from lirf_core.network import SplitNetwork, freeze
from lirf_core.proxies import make_proxies
from lirf_core.quantisation import Grid
from lirf_core.removal import Batch, Outputs, Removal

WEIGHED = 1000  # images that tell how far target and module are from the original


class DepositDiverged(RuntimeError):
    """A loss is no longer finite."""


@dataclass(frozen=True)
class Progress:
    """Where a deposit is, both counted from 1: `epoch` of `epochs`, `step` of `steps`; and the last step's losses.

    `checkpoint` gives bytes (`checkpoints`) from which the training goes on as if it had not stopped. They are as
    large as four lower parts or so, and as secret as the network.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: dict[str, Tensor]
    checkpoint: Callable[[], bytes]

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
class Parts:
    """What a training starts from: the network that is to forget and, in a deposit, the module that is to learn.

    With bits, a part is trained on the grid that it will be stored on. `deposited` and `preserved` are class indices
    in ascending order: those that the module answers for, and all others that the network answers for.
    """

    original: SplitNetwork
    target_bits: int | None
    module: nn.Module | None
    module_bits: int | None
    deposited: Sequence[int]
    preserved: Sequence[int]


def train(
    parts: Parts,
    removal: Removal,
    images: Tensor,
    labels: Tensor,
    preprocessing: Preprocessing,
    config: DepositConfig,
    compute: Compute,
    on_step: Callable[[Progress], None],
    on_preparation: Callable[[], None],
    checkpoint: bytes | None,
) -> "Trainer":
    """Carries out every step. images: uint8 (N, C, H, W), labels: (N,), both of the deposited classes alone.

    With a `checkpoint` of the same training, only those after it: the result is the same to the last bit (on one
    machine). Raises `DepositDiverged`, `ForeignCheckpoint`, `OutOfMemory`, ValueError for a deposit set that is empty
    or has images of another class, and what the callbacks raise.
    """
    if not len(images):
        raise ValueError("the deposit set has no images.")
    if foreign := set(labels.tolist()) - set(parts.deposited):
        raise ValueError(f"the deposit set has images of classes {sorted(foreign)}, which are not to be deposited.")
    shuffler = Generator().manual_seed(config.seed)
    steps_per_epoch = -(-len(images) // config.batch_size)
    images, labels = images.to(compute.device), labels.to(compute.device)
    epochs = config.epochs_for(steps_per_epoch)
    steps = steps_per_epoch * epochs
    with _deterministic(compute), memory_errors():
        trainer = Trainer(parts, removal, preprocessing, config, compute)
        trainer.prepare(images, steps, shuffler, on_preparation)
        at = Position(0, torch.empty(0, dtype=torch.int64))
        if checkpoint is not None:
            at = checkpoints.restore(trainer, shuffler, checkpoint, steps, len(images))
        while at.step < steps:
            number = at.step % steps_per_epoch
            # Equal parts rather than a small rest: batch norm learns its statistics from each batch.
            order = at.order if number else torch.randperm(len(images), generator=shuffler)
            chosen = order.tensor_split(steps_per_epoch)[number].to(compute.device)
            terms = trainer.step(chosen, images[chosen], labels[chosen], shuffler)
            at = Position(at.step + 1, order)
            taken = partial(checkpoints.take, trainer, shuffler, at, steps)
            epoch = (at.step - 1) // steps_per_epoch + 1
            progress = Progress(epoch, epochs, at.step, steps, terms, taken)
            on_step(progress)
            if number + 1 == steps_per_epoch:
                progress.loss_values()
    return trainer


@contextmanager
def _deterministic(compute: Compute) -> Iterator[None]:
    """Kernels that add in the same order each time: cuDNN's of that kind, and no fused attention on CUDA."""
    with ExitStack() as settings:
        settings.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False))
        if compute.device.type == "cuda":
            settings.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


class Trainer:
    """The networks and the optimiser of one deposit; `step` is eq. 9. Without a module it only forgets."""

    def __init__(
        self, parts: Parts, removal: Removal, preprocessing: Preprocessing, config: DepositConfig, compute: Compute
    ) -> None:
        self.config, self.compute, self.preprocessing = config, compute, preprocessing
        self.parts, self.removal = parts, removal
        self.original = compute.place(copy.deepcopy(parts.original))
        freeze(self.original)
        self.upper = self.original.upper
        self.target_lower = compute.place(copy.deepcopy(parts.original.lower).requires_grad_(True))
        self.target_lower.train(removal.learns_statistics)
        self.module_lower = None if parts.module is None else compute.place(parts.module.requires_grad_(True))
        for part, bits in ((self.target_lower, parts.target_bits), (self.module_lower, parts.module_bits)):
            if part is not None and bits is not None:
                quantisation.attach(part, bits)
        if self.module_lower is not None:
            # Pruned, a module has other activations than those that its batch-norm statistics were taken from.
            self.module_lower.train(config.pruning_rate > 0)
        known = parts.deposited if config.transfer == "deposited" else [*parts.deposited, *parts.preserved]
        self.transferred = torch.tensor(known, device=compute.device)

    def prepare(self, images: Tensor, steps: int, generator: Generator, on_batch: Callable[[], None]) -> None:
        """Makes the proxies of the deposit images, no more than so many steps draw, and an optimiser for them."""
        cfg = self.config
        self.shown = images
        self.proxies = make_proxies(
            self.original,
            images,
            self.removal.goals,
            min(cfg.proxies, steps * cfg.proxy_batch),
            self.preprocessing,
            self.compute,
            generator,
            on_batch,
        )
        self.learning = nn.ModuleList(part for part in (self.target_lower, self.module_lower) if part is not None)
        self.optimiser = torch.optim.SGD(
            self.learning.parameters(),
            lr=cfg.learning_rate,
            momentum=cfg.momentum,
            weight_decay=cfg.weight_decay,
        )
        self.learning_rates = OneCycleLR(
            self.optimiser, cfg.learning_rate, total_steps=max(steps, 2), cycle_momentum=False
        )

    def step(self, numbers: Tensor, images: Tensor, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """numbers of the images in the deposit set, (B,); images: uint8 (B, C, H, W); labels: (B,).

        Returns the terms of eq. 9, detached.
        """
        cfg = self.config
        count = len(images)
        shown = torch.cat([images, self.proxies.draw(cfg.proxy_batch, generator)])
        inputs = self.compute.inputs(cfg.augmentation(shown, generator), self.preprocessing)
        with self.compute.autocast(), LastFeatures(self.upper) as last:
            with torch.no_grad():
                split = self.original.lower(inputs)
                original = Outputs(split, logits=self.upper(split).float(), features=last.latest)
            splits = [part(inputs) for part in self.learning]
            target_logits, *module_logits = self.upper(torch.cat(splits)).float().split(len(inputs))
            target = Outputs(splits[0], last.latest[: len(inputs)], target_logits)

        terms = self.removal.terms(Batch(count, numbers, labels, target, original), generator)
        if module_logits:
            answers = [losses.ModuleAnswer(module_logits[0], self.parts.deposited)]
            recovered = losses.join(target_logits, answers, self.parts.preserved, cfg.joining)
            taught = losses.partial_transfer(module_logits[0], original.logits, self.transferred, cfg.temperature)
            terms |= {
                "re": (cfg.lambda_re, losses.recovery(recovered[:count], labels)),
                "pt": (cfg.lambda_pt, taught),
                "ft": (cfg.lambda_ft, losses.feature_distance(splits[1], original.split)),
            }
        total = torch.stack([weight * loss for weight, loss in terms.values() if weight]).sum()

        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        for part in self.learning:
            nn.utils.clip_grad_norm_(part.parameters(), cfg.max_gradient_norm)
        self.optimiser.step()
        self.learning_rates.step()
        return {"total": total.detach(), **{name: loss.detach() for name, (_, loss) in terms.items()}}

    def target(self) -> SplitNetwork:
        network = SplitNetwork(_finished(self.target_lower), self.upper)
        freeze(network)
        return network

    def module(self) -> tuple[nn.Module, Grid]:
        return self._settled(self.module_lower, self.parts.module_bits)

    def scrubbed(self) -> tuple[nn.Module, Grid]:
        return self._settled(self.target_lower, self.parts.target_bits)

    @torch.no_grad()
    def weight(self, module: nn.Module) -> float:
        """How much nearer the finished module's preserved logits are to the original's than the finished target's are.

        Measured on proxies, or on deposit images where there are none: see `losses.inverse_error`.
        """
        images = (self.proxies.images if len(self.proxies.images) else self.shown)[:WEIGHED]
        batches = [
            self.compute.inputs(batch, self.preprocessing) for batch in torch.split(images, self.config.batch_size)
        ]
        with self.compute.autocast():
            original, target, joined = (
                torch.cat([self.upper(part(batch)).float() for batch in batches])
                for part in (self.original.lower, self.target_lower, module)
            )
        preserved = torch.tensor(self.parts.preserved, device=original.device)
        nearness = [losses.inverse_error(logits, original, preserved) for logits in (target, joined)]
        return round((nearness[1] / nearness[0]).item(), 4)

    def _settled(self, part: nn.Module | None, bits: int | None) -> tuple[nn.Module, Grid]:
        assert part is not None
        assert bits is not None
        grid = quantisation.settle(part, bits)
        return _finished(part), grid


def _finished(part: nn.Module) -> nn.Module:
    if not all(torch.isfinite(tensor).all() for tensor in part.state_dict().values()):
        raise DepositDiverged("the last step left numbers that are not finite; lower learning_rate.")
    freeze(part)
    return part
