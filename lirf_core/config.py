"""The configurations of a deposit and of a hardening. Importing it needs no torch."""

from dataclasses import dataclass, field, replace
from typing import Literal

from lirf_core.images.preprocessing import Augmentation

Joining = Literal["eq8", "levelled", "averaged"]  # see `joining.join`
MIN_STEPS = 120
MIN_HARDENING_STEPS, MAX_HARDENING_STEPS = 300, 6000
HARDENING_EPOCHS = 15
MAX_PROXIES_PER_IMAGE = 8  # more would repeat its background
# Images that a hardening learns from for each one that its deposit learns from. A deposit trains two networks, so in
# the time of one image a hardening learns from 1.26 on digits (`benchmarks/recover_logits.py`, with the proxies that it
# makes) and from 1.7 on CIFAR-10: it may take the time of two deposits.
HARDENED_PER_DEPOSITED = 2.5
# Weights of `fp`. A proxy is a slightly changed deposit image. Without batch norm its features stay close to that
# image's, so preserving them preserves what should go (docs/decisions/0028).
FEATURE_WEIGHT, FEATURE_WEIGHT_LAYER_NORM = 2.0, 0.1
# Of depthwise networks (`network.is_depthwise`): AdamW's rate for each unit of `learning_rate`, and the weight of a
# deposit image in `kp` if there are proxies, which count 1 (docs/decisions/0031).
ADAMW_RATE, DEPOSITED_WEIGHT = 0.05, 0.3
SAMPLE_EPOCHS, SAMPLE_STEPS = 10, 240  # of a deposit of single images


@dataclass(frozen=True)
class DepositConfig:
    """The configuration of a deposit, stored with its result. The lambdas weight the terms of eq. 2 and 9, and others.

    removal: `random` is eq. 2 as written; `suppress` only pushes the deposited logits down, which forgets faster and
    keeps more. lambda_pr: removal of what a linear probe reads from the features.
    transfer: the module learns the original's `deposited` logits (eq. 6), or `all` of them, which also teaches it
    when not to claim a deposited class. lambda_ft: the module learns the original's features at the split.
    proxies: the maximum number of proxy images, which stand in for the preserved ones, `proxy_batch` of them in each
    step. On them the target keeps the original's features at the split and before the last layer, with the weight
    lambda_fp. None: `FEATURE_WEIGHT`, or `FEATURE_WEIGHT_LAYER_NORM` if the lower part has layer norm.
    joining: see `joining.join`. module_bits: bits of each of the module's weights; 16 is float16, None as many as keep
    the module under `MODULE_BUDGET` of the original's bytes.
    epochs: over the deposit set; None: see `epochs_for`. batch_size: deposit images in each step. learning_rate: the
    peak of a one-cycle schedule; a depthwise network learns with AdamW, at `ADAMW_RATE` times that. Each network's
    gradients are clipped to `max_gradient_norm`.
    """

    removal: Literal["suppress", "random"] = "suppress"
    lambda_at: float = 0.05
    lambda_pr: float = 2.0
    lambda_kp: float = 3.0
    lambda_fp: float | None = None
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
        """`epochs`; if it is None, at least 3, and enough for `MIN_STEPS` steps."""
        return self.epochs or max(3, -(-MIN_STEPS // steps_per_epoch))

    def with_feature_weight(self, *, has_layer_norm: bool) -> "DepositConfig":
        """With the `lambda_fp` that suits such a network, unless it is given. Without proxies it is 0."""
        if self.lambda_fp is not None:
            return self
        weight = FEATURE_WEIGHT_LAYER_NORM if has_layer_norm else FEATURE_WEIGHT
        return replace(self, lambda_fp=weight if self.proxies else 0.0)

    def __post_init__(self) -> None:
        if not self.proxies and self.lambda_fp:
            raise ValueError("lambda_fp needs proxy images. Set lambda_fp to 0, or proxies above 0.")


@dataclass(frozen=True)
class HardeningConfig:
    """The configuration of a hardening, stored with its result.

    noise_first, noise_split: the share of fresh weights in the first layer and in the layer before the split, and in
    proportion to its depth in each layer between them; noise_upper: in the upper part. temperature: of the
    distillation. mixed: the share of the steps in which images are cut into each other; the last steps learn from whole
    images, as the network will see them. average_decay: of the moving average of the weights, which is the result; 0
    takes the last weights. lambda_ur: weight of `losses.unread`, what the features hold besides the answers.
    epochs: over the transfer set; None: see `epochs_for`.
    learning_rate: the peak of a one-cycle schedule, a fifth of which rises. proxies: the maximum number of proxy images
    in the transfer set.
    """

    noise_first: float = 0.15
    noise_split: float = 0.15
    noise_upper: float = 0.6
    temperature: float = 4.0
    lambda_ur: float = 2.0
    mixed: float = 0.7
    average_decay: float = 0.0
    epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    max_gradient_norm: float = 5.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    proxies: int = 3000
    seed: int = 0

    @classmethod
    def like(cls, deposit: DepositConfig, images: int) -> "HardeningConfig":
        """A hardening that takes at most the time of two such deposits of so many images, and augments as they do."""
        steps = -(-images // deposit.batch_size)
        of_step = min(images, deposit.batch_size) + (deposit.proxy_batch if deposit.proxies else 0)
        proxies = min(deposit.proxies, cls.proxies)
        learnt = HARDENED_PER_DEPOSITED * deposit.epochs_for(steps) * steps * of_step
        return cls(
            epochs=max(1, round(learnt / (images + min(proxies, MAX_PROXIES_PER_IMAGE * images)))),
            proxies=proxies,
            batch_size=min(deposit.batch_size, cls.batch_size),
            augmentation=deposit.augmentation,
            seed=deposit.seed,
        )

    def epochs_for(self, steps_per_epoch: int) -> int:
        """`epochs`; if it is None, `HARDENING_EPOCHS`, but enough for `MIN_HARDENING_STEPS` and no more than for
        `MAX_HARDENING_STEPS`, or three epochs.
        """
        fewest, most = (-(-steps // steps_per_epoch) for steps in (MIN_HARDENING_STEPS, MAX_HARDENING_STEPS))
        return self.epochs or max(3, fewest, min(HARDENING_EPOCHS, most))


# Settings for a deposit of single images, of which less is to be forgotten.
SAMPLES = DepositConfig(lambda_kp=1.0, proxies=1000, learning_rate=0.005)
