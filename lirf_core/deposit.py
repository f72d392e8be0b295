"""Deposit: the fine-tuning of eq. 9, on the deposit set alone."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from lirf_core import losses, pruning, quantisation
from lirf_core.compute import Compute
from lirf_core.data import Augmentation, Preprocessing
from lirf_core.features import LastFeatures
from lirf_core.losses import Joining
from lirf_core.network import SplitNetwork, digest, flat_state, freeze
from lirf_core.probe_adversary import ProbeAdversary
from lirf_core.proxies import make_proxies
from lirf_core.quantisation import Grid
from lirf_core.recover import DepositModule

MIN_STEPS = 120
MODULE_BUDGET = 0.05  # of the original's bytes
WEIGHED = 1000  # images that tell how far target and module are from the original


class DepositDiverged(RuntimeError):
    """A loss is no longer finite."""


@dataclass(frozen=True)
class DepositConfig:
    """Every choice of a deposit; stored with its result. Weights are those of eq. 2 and 9, and of what goes beyond.

    removal: `random` is eq. 2 as written; `suppress` only pushes the deposited logits down, which forgets faster and
    keeps more. transfer: the module learns the original's `deposited` logits (eq. 6) or `all` of them, which also
    teaches it what it must not claim. lambda_pr: removal from what a linear probe reads in the features.
    proxies: how many proxy images stand in for the preserved ones (0: none), `proxy_batch` of them in each step; on
    them the target keeps the original's last-layer features with lambda_fp. lambda_ft: the module learns the
    original's features at the split. joining: see `losses.join`. module_bits: of each of the module's weights; 16 is
    float16, None as many as keep the module under `MODULE_BUDGET` of the original's bytes. epochs over the deposit set
    (None: see `epochs_for`); `batch_size` deposit images a step; `learning_rate` is the peak of one cycle; gradients of
    each network are clipped to `max_gradient_norm`.
    """

    removal: Literal["suppress", "random"] = "suppress"
    lambda_at: float = 0.05
    lambda_pr: float = 2.0
    lambda_kp: float = 3.0
    lambda_fp: float = 3.0
    lambda_re: float = 0.01
    lambda_pt: float = 0.5
    lambda_ft: float = 0.5
    transfer: Literal["deposited", "all"] = "all"
    joining: Joining = "averaged"
    temperature: float = 10.0
    attention_threshold: float = 0.0
    proxies: int = 3000
    proxy_batch: int = 64
    pruning_rate: float = 0.0
    module_bits: Literal[16, 8, 6, 4] | None = None
    epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 2.5e-4
    max_gradient_norm: float = 7.5
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def epochs_for(self, steps_per_epoch: int) -> int:
        """`epochs`, or else 3, and as many as make `MIN_STEPS` steps where the deposit set is small."""
        return self.epochs or max(3, -(-MIN_STEPS // steps_per_epoch))

    def __post_init__(self) -> None:
        if not self.proxies and self.lambda_fp:
            raise ValueError("lambda_fp needs proxy images; set it to 0 where proxies is 0.")


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
    on_preparation: Callable[[], None] = lambda: None,
) -> DepositResult:
    """Splits the knowledge of `original` (which may already be a target network) into target and deposit module.

    images: uint8 (N, C, H, W) of deposited classes only; labels: int64 (N,). `preserved` are the classes that the
    network answers for after this deposit. `on_preparation` is called after each batch of proxy images that was made,
    `on_step` after each step; either stops the deposit by raising.
    The result depends on the arguments alone (on one machine). Raises `DepositDiverged`, and ValueError for a deposit
    set that is empty or has images of another class, or when no class would be left.
    """
    of = _Classes(deposited, preserved)
    example = pruning.example_input(preprocessing.channels, (preprocessing.height, preprocessing.width))
    module = pruning.prune(original.lower, config.pruning_rate, example)
    budget = int(MODULE_BUDGET * sum(tensor.nbytes for tensor in flat_state(original).values()))
    parts = _Parts(original, None, module, config.module_bits or quantisation.bits_within(module, budget))
    trained = _train(parts, images, labels, of, preprocessing, config, compute, on_step, on_preparation)
    target, (lower, grid) = trained.target(), trained.module()
    weight = trained.weight(lower) if config.joining == "averaged" else 1.0
    return DepositResult(
        target, DepositModule(lower, of.deposited, digest(original.upper), config.joining, weight, grid)
    )


def scrub(
    module: DepositModule,
    upper: nn.Module,
    images: Tensor,
    labels: Tensor,
    deposited: Sequence[int],
    preserved: Sequence[int],
    preprocessing: Preprocessing,
    config: DepositConfig,
    compute: Compute,
    on_step: Callable[[Progress], None] = lambda _: None,
    on_preparation: Callable[[], None] = lambda: None,
) -> DepositModule:
    """The module of an earlier deposit without what it still knows of the classes that are deposited now.

    A module is made from the network as it was, so it knows classes that are deposited later, too: eq. 8 does not ask
    it for them, but the knowledge is there. The module's lower part forgets them as a target does, on the same deposit
    set, and keeps the preserved classes and its own. Arguments and errors are those of `deposit`.
    """
    of = _Classes(deposited, [*preserved, *module.classes])
    parts = _Parts(SplitNetwork(module.lower, upper), module.grid.bits, None, None)
    trained = _train(parts, images, labels, of, preprocessing, config, compute, on_step, on_preparation)
    lower, grid = trained.scrubbed()
    return DepositModule(lower, module.classes, module.upper_digest, module.joining, module.weight, grid)


@dataclass(frozen=True)
class _Parts:
    """What a training starts from: the network that is to forget and, in a deposit, the module that is to learn.

    With bits, the part is trained on the grid that it will be stored on.
    """

    original: SplitNetwork
    target_bits: int | None
    module: nn.Module | None
    module_bits: int | None


class _Classes:
    """Class indices in ascending order. Raises ValueError when none is left to preserve."""

    def __init__(self, deposited: Sequence[int], preserved: Sequence[int]) -> None:
        if not preserved:
            raise ValueError("no class is left to preserve; deposit fewer classes.")
        self.deposited, self.preserved = sorted(deposited), sorted(preserved)


def _train(
    parts: _Parts,
    images: Tensor,
    labels: Tensor,
    of: _Classes,
    preprocessing: Preprocessing,
    config: DepositConfig,
    compute: Compute,
    on_step: Callable[[Progress], None],
    on_preparation: Callable[[], None],
) -> "_Trainer":
    if not len(images):
        raise ValueError("the deposit set has no images.")
    if foreign := set(labels.tolist()) - set(of.deposited):
        raise ValueError(f"the deposit set has images of classes {sorted(foreign)}, which are not to be deposited.")
    shuffler = Generator().manual_seed(config.seed)
    steps_per_epoch = -(-len(images) // config.batch_size)
    images, labels = images.to(compute.device), labels.to(compute.device)
    epochs = config.epochs_for(steps_per_epoch)
    step = 0
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        trainer = _Trainer(parts, of, preprocessing, config, compute)
        trainer.prepare(images, steps_per_epoch * epochs, shuffler, on_preparation)
        for epoch in range(1, epochs + 1):
            # Equal parts rather than a small rest: batch norm learns its statistics from each batch.
            for chosen in torch.randperm(len(images), generator=shuffler).tensor_split(steps_per_epoch):
                step += 1
                chosen = chosen.to(compute.device)
                terms = trainer.step(images[chosen], labels[chosen], shuffler)
                progress = Progress(epoch, epochs, step, steps_per_epoch * epochs, terms)
                on_step(progress)
            progress.loss_values()
    return trainer


class _Trainer:
    """The networks and the optimiser of one deposit; `step` is eq. 9. Without a module it only forgets."""

    def __init__(
        self,
        parts: _Parts,
        of: _Classes,
        preprocessing: Preprocessing,
        config: DepositConfig,
        compute: Compute,
    ) -> None:
        self.config, self.compute, self.preprocessing, self.of = config, compute, preprocessing, of
        self.parts = parts
        self.original = compute.place(copy.deepcopy(parts.original))
        freeze(self.original)
        self.upper = self.original.upper
        self.target_lower = compute.place(copy.deepcopy(parts.original.lower).requires_grad_(True)).train()
        self.module_lower = None if parts.module is None else compute.place(parts.module.requires_grad_(True))
        for part, bits in ((self.target_lower, parts.target_bits), (self.module_lower, parts.module_bits)):
            if part is not None and bits is not None:
                quantisation.attach(part, bits)
        if self.module_lower is not None:
            # Pruned, a module has other activations than those that its batch-norm statistics were taken from.
            self.module_lower.train(config.pruning_rate > 0)
        self.deposited = torch.tensor(of.deposited, device=compute.device)
        self.preserved = torch.tensor(of.preserved, device=compute.device)
        self.all_classes = torch.cat([self.deposited, self.preserved])
        self.adversary = ProbeAdversary(self.original, self.deposited)

    def prepare(self, images: Tensor, steps: int, generator: Generator, on_batch: Callable[[], None]) -> None:
        """Makes the proxies of the deposit images, and an optimiser for so many steps."""
        cfg = self.config
        self.shown = images
        self.proxies = make_proxies(
            self.original, images, self.preserved, cfg.proxies, self.preprocessing, self.compute, generator, on_batch
        )
        self.trained = [list(part.parameters()) for part in (self.target_lower, self.module_lower) if part is not None]
        self.optimiser = torch.optim.SGD(
            [parameter for part in self.trained for parameter in part],
            lr=cfg.learning_rate,
            momentum=cfg.momentum,
            weight_decay=cfg.weight_decay,
        )
        self.learning_rates = OneCycleLR(
            self.optimiser, cfg.learning_rate, total_steps=max(steps, 2), cycle_momentum=False
        )

    def step(self, images: Tensor, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """images: uint8 (B, C, H, W); labels: (B,). Returns the terms of eq. 9, detached."""
        cfg = self.config
        count = len(images)
        shown = torch.cat([images, self.proxies.draw(cfg.proxy_batch, generator)])
        inputs = self.compute.inputs(cfg.augmentation(shown, generator), self.preprocessing)
        choice = torch.randint(len(self.all_classes), labels.shape, generator=generator)
        random_labels = self.all_classes[choice.to(labels.device)]
        with self.compute.autocast(), LastFeatures(self.upper) as last:
            with torch.no_grad():
                original_split = self.original.lower(inputs)
                original_logits, original_features = self.upper(original_split).float(), last.latest
            splits = [part(inputs) for part in (self.target_lower, self.module_lower) if part is not None]
            target_logits, *module_logits = self.upper(torch.cat(splits)).float().split(len(inputs))
            target_features = last.latest[: len(inputs)]
        target_split, *module_split = splits

        if cfg.removal == "random":
            removed = losses.random_removal(target_logits[:count], random_labels)
        else:
            removed = losses.suppression(target_logits[:count], self.preserved)
        attention = losses.attention_transfer(target_split[:count], original_split[:count], cfg.attention_threshold)
        self.adversary.learn(target_features[:count], labels)
        terms = {
            "kr": losses.knowledge_removal(removed, attention, cfg.lambda_at),
            "pr": losses.probe_removal(self.adversary.logits(target_features[:count])),
            "kp": losses.knowledge_preservation(target_logits, original_logits, self.preserved, cfg.temperature),
            "fp": losses.feature_distance(target_features[count:], original_features[count:]),
        }
        total = terms["kr"] + cfg.lambda_pr * terms["pr"] + cfg.lambda_kp * terms["kp"] + cfg.lambda_fp * terms["fp"]
        if module_logits:
            answers = [losses.ModuleAnswer(module_logits[0], self.of.deposited)]
            recover_logits = losses.join(target_logits, answers, self.of.preserved, cfg.joining)
            transferred = self.deposited if cfg.transfer == "deposited" else self.all_classes
            terms |= {
                "re": losses.recovery(recover_logits[:count], labels),
                "pt": losses.partial_transfer(module_logits[0], original_logits, transferred, cfg.temperature),
                "ft": losses.feature_distance(module_split[0], original_split),
            }
            total = total + cfg.lambda_re * terms["re"] + cfg.lambda_pt * terms["pt"] + cfg.lambda_ft * terms["ft"]

        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        for part in self.trained:
            nn.utils.clip_grad_norm_(part, cfg.max_gradient_norm)
        self.optimiser.step()
        self.learning_rates.step()
        return {name: term.detach() for name, term in {"total": total, **terms, "at": attention}.items()}

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
        nearness = [losses.inverse_error(logits, original, self.preserved) for logits in (target, joined)]
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
