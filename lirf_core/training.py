"""Training of a target network together with its deposit module (eq. 9), or of a network that only forgets."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import OneCycleLR

from lirf_core import checkpoints, losses, quantisation
from lirf_core.checkpoints import Checkpoint, ForeignCheckpoint
from lirf_core.compute import Compute, memory_errors
from lirf_core.config import ADAMW_RATE, DepositConfig
from lirf_core.features import LastFeatures
from lirf_core.joining import ModuleAnswer, inverse_error, join
from lirf_core.lesson import Lesson, PreservedImages
from lirf_core.network import SplitNetwork, freeze
from lirf_core.proxies import Pool, make_proxies
from lirf_core.quantisation import Grid
from lirf_core.removal import Batch, Outputs, Removal
from lirf_core.state import optimiser_state, part_of, prefixed, restore_optimiser

WEIGHT_IMAGES = 1000  # on which the errors of target and module are measured


class DepositDiverged(RuntimeError):
    """A loss is no longer finite."""


@dataclass(frozen=True)
class Progress:
    """How far a training is: `epoch` of `epochs` and `step` of `steps`, both counted from 1, and this step's losses.

    `checkpoint()` returns bytes (see `checkpoints`) from which the training can go on as if it had never stopped. They
    have about the size of four lower parts (six with AdamW) and are as secret as the network.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    ends_epoch: bool
    losses: dict[str, Tensor]
    checkpoint: Callable[[], bytes]

    def loss_values(self) -> dict[str, float]:
        """The losses as numbers; waits for the device. Raises `DepositDiverged` if one is not finite."""
        values = {name: round(value.item(), 6) for name, value in self.losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise DepositDiverged(
                f"A loss was no longer finite in epoch {self.epoch} of {self.epochs}. "
                "Lower learning_rate or lambda_at, or raise batch_size."
            )
        return values


@dataclass(frozen=True)
class Run:
    """How a training runs.

    `on_preparation` is called after each batch of proxy images, `on_step` after each step. Either can raise an
    exception to stop the training. `checkpoint` is the last `Progress.checkpoint()` of the same training, if it was
    stopped; the training goes on from there.
    """

    config: DepositConfig
    compute: Compute
    on_step: Callable[[Progress], None] = lambda _: None
    on_preparation: Callable[[], None] = lambda: None
    checkpoint: bytes | None = None


@dataclass(frozen=True)
class Parts:
    """The networks that a training starts from: one that forgets and, in a deposit, the module that learns.

    A part that has bits is trained on the grid on which it will be stored. Both parts learn the answers of `teacher`,
    which has the upper part of `original`, and keep the features of `original`; see `deposit.deposit`.
    """

    original: SplitNetwork
    target_bits: int | None
    module: nn.Module | None
    module_bits: int | None
    teacher: SplitNetwork


def train(parts: Parts, removal: Removal, lesson: Lesson, run: Run) -> "Trainer":
    """Take every step, or those after the checkpoint: on one machine, the result is the same to the last bit.

    Raises `DepositDiverged`, `ForeignCheckpoint`, `OutOfMemory`, and what the callbacks of `run` raise.
    """
    with deterministic(run.compute), memory_errors():
        trainer = Trainer(parts, removal, lesson, run)
        take_steps(trainer, run.on_step, run.checkpoint)
    return trainer


class Stepwise(ABC):
    """A training after `step` of `steps`, which takes one step at a time and can go on from a checkpoint."""

    images: Tensor
    generator: Generator
    optimiser: torch.optim.Optimizer
    learning_rates: OneCycleLR
    step: int
    steps: int
    steps_per_epoch: int
    epochs: int
    order: Tensor

    @abstractmethod
    def _learn(self, numbers: Tensor) -> dict[str, Tensor]:
        """Learn from the images of these numbers (B,). Returns the losses, detached."""

    @abstractmethod
    def _learnt(self) -> dict[str, Tensor]:
        """What the steps so far have changed, besides the optimiser and the order of the images."""

    @abstractmethod
    def _restore_learnt(self, state: dict[str, Tensor]) -> None:
        """Go on from a `_learnt`."""

    def advance(self) -> Progress:
        """Take the next step."""
        number = self.step % self.steps_per_epoch
        if number == 0:
            self.order = torch.randperm(len(self.images), generator=self.generator)
        # Batches of equal size, without a small last one, because batch norm learns its statistics from each batch.
        terms = self._learn(self.order.tensor_split(self.steps_per_epoch)[number].to(self.images.device))
        self.step += 1
        return Progress(
            epoch=(self.step - 1) // self.steps_per_epoch + 1,
            epochs=self.epochs,
            step=self.step,
            steps=self.steps,
            ends_epoch=self.step % self.steps_per_epoch == 0,
            losses=terms,
            checkpoint=lambda: checkpoints.dump(self.state()),
        )

    def state(self) -> Checkpoint:
        """Everything that the steps so far have changed. What is made from the images, such as proxies, is left out."""
        state = {
            **self._learnt(),
            **prefixed("optimiser", optimiser_state(self.optimiser)),
            "generator": self.generator.get_state(),
            "order": self.order,
        }
        return Checkpoint(self.step, self.steps, self.optimiser.param_groups[0]["lr"], state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a `state`. Raises `ForeignCheckpoint` if it belongs to another training."""
        state = checkpoint.state
        try:
            if (checkpoint.steps, len(state["order"])) != (self.steps, len(self.images)):
                raise ForeignCheckpoint(
                    f"The checkpoint belongs to a training of {checkpoint.steps} steps on {len(state['order'])} "
                    f"images; this one has {self.steps} steps on {len(self.images)}."
                )
            self._restore_learnt(state)
            restore_optimiser(self.optimiser, part_of(state, "optimiser"))
            self.generator.set_state(state["generator"])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, TypeError, RuntimeError) as error:
            raise ForeignCheckpoint from error
        self.step, self.order = checkpoint.step, state["order"]
        self.learning_rates.load_state_dict({"last_epoch": self.step, "_step_count": self.step + 1})
        self.optimiser.param_groups[0]["lr"] = checkpoint.learning_rate


def take_steps(training: Stepwise, on_step: Callable[[Progress], None], checkpoint: bytes | None) -> None:
    """Take every step, or those after the checkpoint. Raises what `train` raises."""
    if checkpoint is not None:
        training.restore(checkpoints.load(checkpoint))
    while training.step < training.steps:
        progress = training.advance()
        on_step(progress)
        if progress.ends_epoch:
            progress.loss_values()


@contextmanager
def deterministic(compute: Compute) -> Iterator[None]:
    """Use only kernels that add in the same order each time: deterministic cuDNN, no fused attention on CUDA."""
    with ExitStack() as settings:
        settings.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False))
        if compute.device.type == "cuda":
            settings.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def total_loss(terms: Mapping[str, Tensor], cfg: DepositConfig) -> Tensor:
    """L, eq. 9, followed by three terms that go beyond the paper. terms: scalars by name.

    A deposit of single images has no `pr`. A scrub trains no module and so has no `re`, `pt` and `ft`.
    """

    def weighted(weight: float | None, name: str) -> Tensor | float:
        return weight * terms[name] if weight and name in terms else 0.0  # a term of weight 0 gets no gradient

    return (
        terms["kr"]
        + weighted(cfg.lambda_kp, "kp")
        + weighted(cfg.lambda_re, "re")
        + weighted(cfg.lambda_pt, "pt")
        + weighted(cfg.lambda_pr, "pr")
        + weighted(cfg.lambda_fp, "fp")
        + weighted(cfg.lambda_ft, "ft")
    )


class Trainer(Stepwise):
    """The networks and the optimiser of one training, after `step` of `steps`. Without a module, it only forgets."""

    def __init__(self, parts: Parts, removal: Removal, lesson: Lesson, run: Run) -> None:
        """Place the networks on the device and make proxies, at most as many as the steps draw."""
        self.parts, self.removal, self.lesson = parts, removal, lesson
        has_layer_norm = any(isinstance(module, nn.LayerNorm) for module in parts.original.lower.modules())
        self.config = run.config.with_feature_weight(has_layer_norm=has_layer_norm)
        self.compute = run.compute
        self.images, self.labels = lesson.images.to(run.compute.device), lesson.labels.to(run.compute.device)
        self.generator = Generator().manual_seed(run.config.seed)
        self.step, self.order = 0, torch.empty(0, dtype=torch.int64)
        self.steps_per_epoch = -(-len(self.images) // run.config.batch_size)
        self.epochs = run.config.epochs_for(self.steps_per_epoch)
        self.steps = self.steps_per_epoch * self.epochs
        self._place(parts)
        self.transferred = torch.tensor(
            lesson.deposited if run.config.transfer == "deposited" else [*lesson.deposited, *lesson.preserved],
            device=run.compute.device,
        )
        self.proxies = make_proxies(
            self.teacher,
            self.images,
            removal.goals,
            min(run.config.proxies, self.steps * run.config.proxy_batch),
            lesson.preprocessing,
            run.compute,
            self.generator,
            run.on_preparation,
        )
        beside = lesson.preserved_images or PreservedImages(lesson.images[:0], lesson.labels[:0])
        self.preserved = Pool(beside.images.to(run.compute.device), beside.labels.to(run.compute.device))
        self.optimiser, peak = self._optimiser()
        self.learning_rates = OneCycleLR(self.optimiser, peak, total_steps=max(self.steps, 2), cycle_momentum=False)

    def _optimiser(self) -> tuple[torch.optim.Optimizer, float]:
        """And its highest learning rate."""
        cfg, parameters = self.config, self.learning.parameters()
        if self.removal.is_adaptive:
            peak = ADAMW_RATE * cfg.learning_rate
            betas = (cfg.momentum, 0.99)
            return torch.optim.AdamW(parameters, lr=peak, betas=betas, weight_decay=cfg.weight_decay), peak
        sgd = torch.optim.SGD(parameters, lr=cfg.learning_rate, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        return sgd, cfg.learning_rate

    def _place(self, parts: Parts) -> None:
        self.original = self.compute.place(copy.deepcopy(parts.original))
        self.teacher = self.original
        if parts.teacher is not parts.original:
            self.teacher = SplitNetwork(self.compute.place(copy.deepcopy(parts.teacher.lower)), self.original.upper)
        for network in (self.original, self.teacher):
            freeze(network)
        self.upper = self.original.upper
        self.target_lower = self.compute.place(copy.deepcopy(parts.original.lower).requires_grad_(True))
        self.target_lower.train(self.removal.learns_statistics)
        self.module_lower = None if parts.module is None else self.compute.place(parts.module.requires_grad_(True))
        for part, bits in ((self.target_lower, parts.target_bits), (self.module_lower, parts.module_bits)):
            if part is not None and bits is not None:
                quantisation.attach(part, bits)
        if self.module_lower is not None:
            # Pruning changes the activations, so a pruned module needs new batch-norm statistics.
            self.module_lower.train(self.config.pruning_rate > 0)
        self.learning = nn.ModuleList(part for part in (self.target_lower, self.module_lower) if part is not None)

    def _learn(self, numbers: Tensor) -> dict[str, Tensor]:
        """Follow the gradient of eq. 9 on some deposit images, some proxies and as many preserved images, if any.

        numbers: (B,), of the images in the deposit set. Returns the terms, detached.
        """
        cfg, generator = self.config, self.generator
        labels, count = self.labels[numbers], len(numbers)
        stand_ins = self.proxies.draw(cfg.proxy_batch, generator), self.preserved.draw(cfg.proxy_batch, generator)
        images = torch.cat([self.images[numbers], *(drawn.images for drawn in stand_ins)])
        inputs = self.compute.inputs(cfg.augmentation(images, generator), self.lesson.preprocessing)
        with self.compute.autocast(), LastFeatures(self.upper) as last:
            with torch.no_grad():
                split = self.original.lower(inputs)
                logits, features = self.upper(split).float(), last.latest
                if self.teacher is not self.original:
                    logits = self.teacher(inputs).float()
                original = Outputs(split, features, logits)
            splits = [part(inputs) for part in self.learning]
            target_logits, *module_logits = self.upper(torch.cat(splits)).float().split(len(inputs))
            target = Outputs(splits[0], last.latest[: len(inputs)], target_logits)

        foreign = self.removal.foreign
        if len(foreign):
            shown = torch.cat([drawn.classes for drawn in stand_ins])
            foreign = count + torch.isin(shown, foreign).nonzero()[:, 0]
        terms = self.removal.terms(Batch(count, numbers, labels, target, original, foreign), generator)
        if module_logits:
            answers = [ModuleAnswer(module_logits[0], self.lesson.deposited)]
            recover_logits = join(target_logits, answers, self.lesson.preserved, cfg.joining)
            terms |= {
                "pt": losses.partial_transfer(module_logits[0], original.logits, self.transferred, cfg.temperature),
                "re": losses.recovery(recover_logits[:count], labels),
                "ft": losses.feature_distance(splits[1], original.split),
            }
        total = total_loss(terms, cfg)

        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        for part in self.learning:
            nn.utils.clip_grad_norm_(part.parameters(), cfg.max_gradient_norm)
        self.optimiser.step()
        self.learning_rates.step()
        return {"total": total.detach(), **{name: loss.detach() for name, loss in terms.items()}}

    def _learnt(self) -> dict[str, Tensor]:
        return {**prefixed("network", self.learning.state_dict()), **prefixed("removal", self.removal.state())}

    def _restore_learnt(self, state: dict[str, Tensor]) -> None:
        self.learning.load_state_dict(part_of(state, "network"))
        self.removal.restore(part_of(state, "removal"))

    def target(self) -> SplitNetwork:
        """The finished target network, frozen."""
        network = SplitNetwork(_finished(self.target_lower), self.upper, self.original.absent)
        freeze(network)
        return network

    def module(self) -> tuple[nn.Module, Grid]:
        """The finished deposit module's lower part, frozen, and its grid."""
        return self._settled(self.module_lower, self.parts.module_bits)

    def scrubbed(self) -> tuple[nn.Module, Grid]:
        """The finished lower part of a scrub, frozen, and its grid."""
        return self._settled(self.target_lower, self.parts.target_bits)

    @torch.no_grad()
    def weight(self, module: nn.Module) -> float:
        """The weight of the finished module's preserved logits, if the finished target's have weight 1.

        The ratio of their `joining.inverse_error` against the teacher, measured on proxies, or on deposit images if
        there are no proxies.
        """
        images = (self.proxies.images if len(self.proxies.images) else self.images)[:WEIGHT_IMAGES]
        batches = [
            self.compute.inputs(batch, self.lesson.preprocessing)
            for batch in torch.split(images, self.config.batch_size)
        ]
        with self.compute.autocast():
            teacher_logits, target_logits, module_logits = (
                torch.cat([self.upper(part(batch)).float() for batch in batches])
                for part in (self.teacher.lower, self.target_lower, module)
            )
        preserved = torch.tensor(self.lesson.preserved, device=teacher_logits.device)
        of_target, of_module = (
            inverse_error(logits, teacher_logits, preserved) for logits in (target_logits, module_logits)
        )
        return round((of_module / of_target).item(), 4)

    def _settled(self, part: nn.Module | None, bits: int | None) -> tuple[nn.Module, Grid]:
        assert part is not None
        assert bits is not None
        grid = quantisation.settle(part, bits)
        return _finished(part), grid


def _finished(part: nn.Module) -> nn.Module:
    if not all(torch.isfinite(tensor).all() for tensor in part.state_dict().values()):
        raise DepositDiverged("The last step left weights that are not finite. Lower learning_rate.")
    freeze(part)
    return part
