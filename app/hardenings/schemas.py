from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from app.base.field_types import Id, Reason, Text
from app.deposits.schemas import DepositLosses, Progress
from app.registry.policies import Hardening as HardeningPolicy
from app.registry.schemas import Model as DescribedModel
from lirf_core.config import HardeningConfig

Share = StrictFloat | None


class HardeningConfigIn(BaseModel):
    """Settings of a hardening. What is left out suits the size of the images and of the data set."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    epochs: StrictInt | None = Field(None, ge=1, le=200, description="Passes over the images and their proxies.")
    proxies: StrictInt | None = Field(None, ge=0, le=20_000, description="How many images are generated, at most.")
    batch_size: StrictInt | None = Field(None, ge=2, le=1024)
    learning_rate: StrictFloat | None = Field(None, ge=1e-4, le=0.5)
    noise_first: Share = Field(None, ge=0, le=1, description="Share of fresh weights in the first layer.")
    noise_split: Share = Field(None, ge=0, le=1, description="Share of fresh weights in the layer before the split.")
    noise_upper: Share = Field(None, ge=0, le=1, description="Share of fresh weights in the upper part.")
    seed: StrictInt | None = Field(None, ge=0, lt=1 << 31)

    def applied_to(self, default: HardeningConfig) -> HardeningConfig:
        """The default with what is set here."""
        changes: dict[str, Any] = self.model_dump(exclude_none=True)
        return replace(default, **changes)


class HardeningCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"dataset_id": "0193a1c2-7f00-7000-8000-000000000000"}]}
    )

    dataset_id: Id | None = Field(
        None,
        description="Images of deposited classes (`purpose=deposit`). Default: the newest deposit's, if it was kept.",
    )
    evaluation_set_id: Id | None = Field(None, description="Default: the deposit's, or the model's newest.")
    keep_dataset: StrictBool = Field(
        False, description="Keep the images. Otherwise they are shredded when the hardening ends."
    )
    config: HardeningConfigIn = HardeningConfigIn()


class Hardening(BaseModel):
    id: str
    model: str
    deposit: str = Field(description="The deposit that made the revision.")
    revision: int = Field(description="The revision whose target is hardened.")
    state: Literal["queued", "running", "finished", "failed", "cancelled"]
    is_served: bool = Field(description="Whether it answers for the model while nothing is withdrawn.")
    dataset_id: str
    evaluation_set_id: str | None
    keep_dataset: bool
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    shredded_at: datetime | None = Field(description="When the hardened network was destroyed.")
    attempts: int
    progress: Progress
    failure: str | None = Field(description="Why it failed, with the figures, and what to do.")
    losses: DepositLosses | None = Field(description="What the preserved classes lose by it, and by all deposits.")


class BaseCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"confirm": "birds", "reason": "no one shall relearn dodo"}]}
    )

    confirm: Text = Field(max_length=200, description="The model's name again, because this cannot be undone.")
    reason: Reason


class Base(BaseModel):
    model: str
    revision: int = Field(description="The new revision: the hardened network, from which later deposits start.")
    destroyed_revisions: list[int]
    shred_effective_at: datetime | None = Field(
        description="When backups no longer hold the keys (`LIRF_BACKUP_DAYS`). Null if the service does not know."
    )
    still_in: list[str] = Field(description="What still has destroyed keys of this model, and why. Empty: nothing.")
    also_in: list[str] = Field(description="What has copies of the destroyed keys that the service cannot erase.")


class ModelHardening(BaseModel):
    """What becomes of the hardened network of the revision in service."""

    policy: HardeningPolicy
    is_served: bool = Field(description="Whether it answers while nothing is withdrawn. Otherwise the working target.")
    why_not: str | None = Field(description="Why it is not served, and what to do.")
    id: str | None = Field(description="The newest hardening of the revision.")
    state: Literal["queued", "running", "finished", "failed", "cancelled"] | None
    losses: DepositLosses | None = Field(description="What the preserved classes lose by it, and by all deposits.")


class Model(DescribedModel):
    hardening: ModelHardening
