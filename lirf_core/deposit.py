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
from lirf_core.features import LastFeatures
from lirf_core.losses import Joining
from lirf_core.network import SplitNetwork, digest, freeze
from lirf_core.probe_adversary import ProbeAdversary
from lirf_core.proxies import make_proxies
from lirf_core.recover import DepositModule

MIN_STEPS = 120


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
    original's features at the split. joining: see `losses.join`. module_precision: float16 halves a module's bytes.
    epochs over the deposit set (None: see `epochs_for`); `batch_size` deposit images a step; `learning_rate` is the
    peak of one cycle; gradients of each network are clipped to `max_gradient_norm`.
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
    module_precision: Literal["float16", "float32"] = "float16"
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
    _check_set(images, labels, deposited, preserved)
    shuffler = Generator().manual_seed(config.seed)
    steps_per_epoch = -(-len(images) // config.batch_size)
    images, labels = images.to(compute.device), labels.to(compute.device)
    epochs = config.epochs_for(steps_per_epoch)
    step = 0
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        trainer = _Trainer(
            original, images, deposited, preserved, preprocessing, config, compute, shuffler, on_preparation
        )
        trainer.schedule(steps_per_epoch * epochs)
        for epoch in range(1, epochs + 1):
            # Equal parts rather than a small rest: batch norm learns its statistics from each batch.
            for chosen in torch.randperm(len(images), generator=shuffler).tensor_split(steps_per_epoch):
                step += 1
                chosen = chosen.to(compute.device)
                terms = trainer.step(images[chosen], labels[chosen], shuffler)
                progress = Progress(epoch, epochs, step, steps_per_epoch * epochs, terms)
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
        images: Tensor,
        deposited: Sequence[int],
        preserved: Sequence[int],
        preprocessing: Preprocessing,
        config: DepositConfig,
        compute: Compute,
        generator: Generator,
        on_preparation: Callable[[], None],
    ) -> None:
        self.config, self.compute, self.preprocessing = config, compute, preprocessing
        self.upper_digest = digest(original.upper)
        self.classes = sorted(deposited)
        self.original = compute.place(copy.deepcopy(original))
        freeze(self.original)
        self.upper = self.original.upper
        example = pruning.example_input(preprocessing.channels, (preprocessing.height, preprocessing.width))
        self.target_lower = compute.place(copy.deepcopy(original.lower).requires_grad_(True)).train()
        # Pruned, a module has other activations than those that its batch-norm statistics were taken from.
        self.module_lower = compute.place(pruning.prune(original.lower, config.pruning_rate, example))
        self.module_lower.train(config.pruning_rate > 0)
        self.deposited = torch.tensor(self.classes, device=compute.device)
        self.preserved = torch.tensor(sorted(preserved), device=compute.device)
        self.random_classes = torch.cat([self.deposited, self.preserved])
        self.transferred = self.deposited if config.transfer == "deposited" else self.random_classes
        self.proxies = make_proxies(
            self.original, images, self.preserved, config.proxies, preprocessing, compute, generator, on_preparation
        )
        self.adversary = ProbeAdversary(self.original, self.deposited)
        self.parts = [list(self.target_lower.parameters()), list(self.module_lower.parameters())]
        self.optimiser = torch.optim.SGD(
            [parameter for part in self.parts for parameter in part],
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )

    def schedule(self, steps: int) -> None:
        self.learning_rates = OneCycleLR(
            self.optimiser, self.config.learning_rate, total_steps=max(steps, 2), cycle_momentum=False
        )

    def step(self, images: Tensor, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """images: uint8 (B, C, H, W); labels: (B,). Returns the terms of eq. 9, detached."""
        cfg = self.config
        count = len(images)
        shown = torch.cat([images, self.proxies.draw(cfg.proxy_batch, generator)])
        inputs = self.compute.inputs(cfg.augmentation(shown, generator), self.preprocessing)
        choice = torch.randint(len(self.random_classes), labels.shape, generator=generator)
        random_labels = self.random_classes[choice.to(labels.device)]
        with self.compute.autocast(), LastFeatures(self.upper) as last:
            with torch.no_grad():
                original_split = self.original.lower(inputs)
                original_logits, original_features = self.upper(original_split).float(), last.latest
            target_split, module_split = self.target_lower(inputs), self.module_lower(inputs)
            target_logits, module_logits = self.upper(torch.cat([target_split, module_split])).float().chunk(2)
            target_features, _ = last.latest.chunk(2)
        module_answers = [(module_logits, self.deposited.tolist())]
        recover_logits = losses.join(target_logits, module_answers, self.preserved.tolist(), cfg.joining)

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
            "re": losses.recovery(recover_logits[:count], labels),
            "pt": losses.partial_transfer(module_logits, original_logits, self.transferred, cfg.temperature),
            "ft": losses.feature_distance(module_split, original_split),
        }
        total = (
            terms["kr"] + cfg.lambda_pr * terms["pr"]
            + cfg.lambda_kp * terms["kp"] + cfg.lambda_fp * terms["fp"]
            + cfg.lambda_re * terms["re"]
            + cfg.lambda_pt * terms["pt"] + cfg.lambda_ft * terms["ft"]
        )  # fmt: skip

        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        for part in self.parts:
            nn.utils.clip_grad_norm_(part, cfg.max_gradient_norm)
        self.optimiser.step()
        self.learning_rates.step()
        return {name: term.detach() for name, term in {"total": total, **terms, "at": attention}.items()}

    def result(self) -> DepositResult:
        target, module = SplitNetwork(self.target_lower, self.upper), nn.ModuleList([self.module_lower])
        freeze(target)
        freeze(module)
        if self.config.module_precision == "float16":
            rounded(self.module_lower)
        for state in (target.state_dict(), module.state_dict()):
            if not all(torch.isfinite(tensor).all() for tensor in state.values()):
                raise DepositDiverged("the last step left numbers that are not finite; lower learning_rate.")
        return DepositResult(
            target, DepositModule(self.module_lower, self.classes, self.upper_digest, self.config.joining)
        )


@torch.no_grad()
def rounded(part: nn.Module) -> nn.Module:
    """`part` in place, its weights of two and more dimensions rounded to float16; biases and norms stay as they are."""
    for parameter in part.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.half())
    return part
