from dataclasses import fields
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, field_validator, model_validator

from app.base.field_types import Id, Label, Reason
from app.deposits.losses import Source
from app.deposits.ranges import describe_ranges
from app.deposits.tables import Kind
from lirf_core.config import ADAMW_RATE, FEATURE_WEIGHT, FEATURE_WEIGHT_LAYER_NORM, SAMPLES, DepositConfig, Joining
from lirf_core.evidence.membership import Attack

_DEFAULT = DepositConfig()
SAMPLES_DIFFER = tuple(
    field.name for field in fields(SAMPLES) if getattr(SAMPLES, field.name) != getattr(_DEFAULT, field.name)
)


class AugmentationIn(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    crop_padding: StrictInt = Field(
        _DEFAULT.augmentation.crop_padding, ge=0, le=64, description="Pixels; 0 for no random crop."
    )
    horizontal_flip: StrictBool = Field(
        _DEFAULT.augmentation.horizontal_flip, description="False if a mirrored image shows another class."
    )


class DepositConfigIn(BaseModel):
    """Settings of eq. 9. The defaults suit small images."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra=describe_ranges)

    removal: Literal["suppress", "random"] = Field(_DEFAULT.removal, description="`random`: eq. 2 as in the paper.")
    lambda_at: StrictFloat = Field(_DEFAULT.lambda_at, ge=0, le=1000)
    lambda_pr: StrictFloat = Field(
        _DEFAULT.lambda_pr,
        ge=0,
        le=1000,
        description="Weight of the removal from the last layer's features, as a linear probe reads them. Not in "
        "the paper.",
    )
    lambda_kp: StrictFloat = Field(_DEFAULT.lambda_kp, ge=0, le=1000)
    lambda_fp: StrictFloat | None = Field(
        _DEFAULT.lambda_fp,
        ge=0,
        le=1000,
        description="Weight of the preservation of features on proxy images. Default: "
        f"{FEATURE_WEIGHT:g}, or {FEATURE_WEIGHT_LAYER_NORM:g} if the lower part has layer norm. Not in the paper.",
    )
    lambda_re: StrictFloat = Field(_DEFAULT.lambda_re, ge=0, le=1000)
    lambda_pt: StrictFloat = Field(_DEFAULT.lambda_pt, ge=0, le=1000)
    lambda_ft: StrictFloat = Field(
        _DEFAULT.lambda_ft,
        ge=0,
        le=1000,
        description="Weight of the transfer of features to the module. Not in the paper.",
    )
    transfer: Literal["deposited", "all"] = Field(
        _DEFAULT.transfer, description="Which logits the module learns. `deposited`: eq. 6 as in the paper."
    )
    joining: Joining = Field(
        _DEFAULT.joining, description="How a recover network joins target and module. `eq8`: as in the paper."
    )
    temperature: StrictFloat = Field(_DEFAULT.temperature, gt=0, le=1000)
    attention_threshold: StrictFloat = Field(_DEFAULT.attention_threshold, ge=0, le=1)
    proxies: StrictInt = Field(
        _DEFAULT.proxies,
        ge=0,
        le=100_000,
        description="How many images are generated to stand in for preserved ones; 0 for none.",
    )
    proxy_batch: StrictInt = Field(_DEFAULT.proxy_batch, ge=1, le=4096)
    pruning_rate: StrictFloat = Field(
        _DEFAULT.pruning_rate, ge=0, le=0.95, description="Share of the filters that is pruned from the deposit module."
    )
    module_bits: Literal[16, 8, 6, 4] | None = Field(
        _DEFAULT.module_bits,
        description="Bits of each weight of the module. Default: as many as keep the module under 5 % of the "
        "original's bytes.",
    )
    epochs: StrictInt | None = Field(
        _DEFAULT.epochs,
        ge=1,
        le=1000,
        description="Passes over the deposit set. Default: 3, or more if the deposit set is small.",
    )
    batch_size: StrictInt = Field(_DEFAULT.batch_size, ge=2, le=4096)
    learning_rate: StrictFloat = Field(
        _DEFAULT.learning_rate,
        gt=0,
        le=10,
        description="Peak of a one-cycle schedule of SGD. A network with depthwise convolutions and batch norm learns "
        f"with AdamW, at {ADAMW_RATE:g} times this.",
    )
    momentum: StrictFloat = Field(_DEFAULT.momentum, ge=0, lt=1)
    weight_decay: StrictFloat = Field(_DEFAULT.weight_decay, ge=0, le=1)
    max_gradient_norm: StrictFloat = Field(_DEFAULT.max_gradient_norm, gt=0, le=1e6)
    augmentation: AugmentationIn = AugmentationIn()
    seed: StrictInt = Field(_DEFAULT.seed, ge=0, lt=1 << 31)

    @model_validator(mode="after")
    def is_possible(self) -> "DepositConfigIn":
        DepositConfig(**self.model_dump(exclude={"augmentation"}))
        return self

    @staticmethod
    def of_samples(chosen: "DepositConfigIn | None" = None) -> "DepositConfigIn":
        """What was chosen, with the defaults of a deposit of single images for the rest."""
        config = chosen or DepositConfigIn()
        left = [name for name in SAMPLES_DIFFER if name not in config.model_fields_set]
        return config.model_copy(update={name: getattr(SAMPLES, name) for name in left})


class DepositCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "dataset_id": "0193a1c2-7f00-7000-8000-000000000000",
                    "classes": ["airplane", "bird"],
                    "reason": "licence of the supplier ended on 2026-10-31",
                    "config": {"epochs": 20},
                }
            ]
        },
    )

    kind: Kind = Field(
        Kind.CLASSES,
        description="`classes`: forget whole classes. `samples`: forget that the model was trained on these images; it "
        "still answers their classes.",
    )
    dataset_id: Id = Field(
        description="The deposit set: images of exactly the classes to forget or, of `samples`, exactly the images."
    )
    classes: list[Label] | None = Field(
        None, max_length=100_000, description="A cross-check: must name exactly the classes of the deposit set."
    )
    groups: list[Annotated[list[Label], Field(min_length=1, max_length=100_000)]] | None = Field(
        None,
        min_length=1,
        max_length=100,
        examples=[[["airplane"], ["bird", "cat"]]],
        description="Make a deposit of each of these groups of classes, all in one job, so that each is withdrawn, "
        "restored and purged by itself. Together they are the classes of the deposit set, each in one group. Default: "
        "one deposit of all classes. Not of `samples`.",
    )
    evaluation_set_id: Id | None = Field(
        None,
        description="Default: the model's newest evaluation set. `samples` needs at least 10 images of each of their "
        "classes in it.",
    )
    preserved_set_id: Id | None = Field(
        None,
        description="Images of classes that stay, if there are some (`purpose=preserved`). The deposit keeps more of "
        "these classes. Without them, as in the paper, it needs none.",
    )
    reason: Reason
    keep_dataset: StrictBool = Field(
        False,
        description="Keep the deposit set. Otherwise it is shredded when the deposit ends, or when a request for "
        "approval is refused or lapses.",
    )
    keep_preserved_set: StrictBool = Field(
        False, description="Keep the preserved set. Otherwise it is shredded when the deposit set is."
    )
    evidence: StrictBool = Field(
        True, description="Examine the deposit once it is made, if there is an evaluation set."
    )
    config: DepositConfigIn = Field(
        DepositConfigIn(),
        description="Of `samples`, the defaults of "
        + ", ".join(f"{name} ({getattr(SAMPLES, name):g})" for name in SAMPLES_DIFFER)
        + " and `epochs` (at least 10, and enough for 240 steps) differ.",
    )

    @model_validator(mode="after")
    def defaults_of_kind(self) -> "DepositCreate":
        if self.kind == Kind.SAMPLES:
            if self.groups is not None:
                raise ValueError("A deposit of `samples` has no groups")
            self.config = DepositConfigIn.of_samples(self.config)
        return self

    @field_validator("classes")
    @classmethod
    def not_empty(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and not names:
            raise ValueError("Name at least one class, or leave `classes` out")
        return names


class Progress(BaseModel):
    phase: str | None = Field(
        None,
        examples=["training"],
        description="starting, loading, preparing, training, storing, scrubbing, evaluating, finished.",
    )
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    module: int | None = Field(
        None, description="Which of the `modules` is being scrubbed: those of older deposits, and of the job's groups."
    )
    modules: int | None = None
    losses: dict[str, float] | None = Field(
        None,
        examples=[
            {"total": 1.9, "kr": 0.2, "pr": 0.3, "kp": 0.1, "fp": 0.1, "re": 0.3, "pt": 0.04, "ft": 0.1, "at": 0.1}
        ],
    )


class NetworkAccuracy(BaseModel):
    """Percent, on held-out images and raw logits, with the deposited rows of the last layer put back.

    A deposit of `samples` preserves every class, so it has no deposited accuracy.
    """

    preserved_accuracy: float | None
    deposited_accuracy: float | None
    average_accuracy: float | None
    by_class: dict[str, float | None]


class Membership(BaseModel):
    """Of `samples`, against the half of the held-out images that did not show how unseen images are answered."""

    original: Attack = Field(description="The network that this deposit started from.")
    target: Attack
    recover: Attack


class KnownByModule(BaseModel):
    """How many held-out images of this deposit's classes another deposit's module answers, in percent."""

    in_use: float = Field(description="The module that serves when the other deposit is withdrawn.")
    scrubbed: float = Field(description="The one that takes its place once this deposit is purged.")


class DepositMetrics(BaseModel):
    original: NetworkAccuracy | None = Field(
        description="The registered network, revision 0. Null if it was destroyed before it was asked about this "
        "evaluation set."
    )
    before: NetworkAccuracy = Field(
        description="The network that this deposit started from: the original, or the target of the deposit before."
    )
    target: NetworkAccuracy
    recover: NetworkAccuracy
    forgetting: float | None = Field(description="F: drop of the deposited accuracy, in percentage points.")
    h_mean: float | None = Field(description="Harmonic mean of the target's preserved accuracy and F.")
    membership: Membership | None = Field(
        None,
        description="How well an attacker tells images of the deposit set from held-out images of the same "
        "classes: area "
        "under the ROC curve, with its standard error. 0.5 is a guess.",
    )
    older_modules: dict[str, KnownByModule] = Field(
        {},
        description="What the modules of older deposits, and of others that the same job made, know of this deposit's "
        "classes, by their id. No answer shows it, since only its own module has the rows of a class; here they were "
        "put back.",
    )


class ScrubbedModule(BaseModel):
    """What takes the place of a module that still knows classes of later deposits."""

    forgets: int = Field(
        description="The number of deposits, later ones or of the same job, whose classes the module in use still "
        "knows and this one does not."
    )
    loss: float | None = Field(
        description="Percentage points that this deposit's classes will lose when one of those deposits is purged, and "
        "this module takes the place of the one in use. As the newest deposit measured it, on evaluation images or, "
        "where these show too little, on proxies; null if neither could be measured."
    )


class FigureSummary(BaseModel):
    """Percent, on held-out images and raw logits. Losses: percentage points since the original network."""

    preserved_accuracy: float | None
    preserved_loss: float | None
    withdrawn_accuracy: float | None = Field(description="Of the classes of the deposits that are withdrawn.")
    withdrawn_loss: float | None
    average_accuracy: float | None


class ClassLoss(BaseModel):
    """The class that has lost most for certain, in percent of its `images`."""

    name: str
    before: float
    after: float
    images: int
    certain: float = Field(description="Percentage points that it has lost at least, with 95 % confidence.")


class DepositLoss(BaseModel):
    """How often the same classes were answered correctly, before and after, in percent of `images`.

    On proxies (generated images): answered like the network before, which is 100 percent by definition.
    """

    before: float
    after: float
    images: int
    source: Source
    worst_class: ClassLoss | None = None


class DepositLosses(BaseModel):
    """What a deposit cost, which the model's policy bounds. Each list has one loss for each source."""

    preserved: list[DepositLoss] = Field(description="Of the preserved classes, since the network before.")
    total: float | None = Field(
        description="Percentage points that the preserved classes have lost since the original network. If that was "
        "destroyed, the sum over all deposits."
    )
    total_class: ClassLoss | None = Field(
        None, description="The preserved class that has lost most since the original network."
    )
    recovered: list[DepositLoss] = Field([], description="Of the deposited classes, when they are withdrawn.")
    modules: dict[str, list[DepositLoss]] = Field(
        description="Of the classes of each older deposit, when it is withdrawn, by its id. If a job makes several "
        "deposits, its first one has them."
    )
    module_totals: dict[str, float | None] = Field(
        {}, description="Percentage points that the classes of each older deposit have lost since the original network."
    )
    scrubs: dict[str, list[DepositLoss]] = Field(
        {},
        description="Of the classes of each older deposit, if its waiting scrubbed module is in use before and after; "
        "and of this deposit's, if its own is in use.",
    )


class DepositFigures(BaseModel):
    """The newest figures of a deposit. Later deposits change them."""

    measurement: str = Field(description="Id of the measurement, which has the figures of each class.")
    measured_at: datetime
    revision: int = Field(description="The revision that was measured.")
    is_current: bool = Field(description="Whether that revision still serves.")
    target: FigureSummary
    alone: FigureSummary | None = Field(description="Only this deposit withdrawn. Null if it was purged.")
    together: FigureSummary | None = Field(description="All outstanding deposits withdrawn.")


class DepositGroup(BaseModel):
    """A deposit of a job that makes several."""

    deposit: str = Field(description="Its id. It can be read once the job has ended in success.")
    classes: list[str]


class Deposit(BaseModel):
    id: str
    model: str
    kind: Kind
    classes: list[str] = Field(
        description="That are forgotten or, of `samples`, that the deposited images show. Until a job with `groups` "
        "has ended, those of all groups."
    )
    groups: list[DepositGroup] = Field(
        description="All deposits that the same job makes, this one included. Empty if it makes no other one."
    )
    state: Literal["queued", "running", "deposited", "failed", "cancelled", "purged"]
    reason: str
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    is_cancel_requested: bool
    progress: Progress
    failure: str | None = Field(description="Why it failed, and what to do.")
    purged_at: datetime | None = Field(description="When its module was destroyed: nothing can bring the classes back.")
    purged_by: str | None
    purge_reason: str | None
    restored_at: datetime | None = Field(description="Since when the classes answer without a withdrawal.")
    restored_by: str | None
    restore_reason: str | None
    revision: int | None = Field(description="The revision of the model that this deposit made.")
    module_revision: int | None = Field(
        description="The revision with which the module was made: that of the deposit, or of a later rebase. "
        "`metrics` and `losses` were measured then."
    )
    module_bytes: int | None
    scrubbed_module: ScrubbedModule | None = Field(
        description="Null while the module in use knows no class of a later deposit, nor of another of the same job."
    )
    metrics: DepositMetrics | None = Field(
        description="As measured when the deposit was made. Null if there was no evaluation set."
    )
    losses: DepositLosses | None = Field(description="What it cost. Null until it is published.")
    figures: DepositFigures | None = Field(
        description="As measured after the newest deposit. Null if there was no evaluation set."
    )
    warnings: list[str] = Field(description="What the averages hide, and what the figures cannot be trusted for.")
    config: DepositConfigIn
