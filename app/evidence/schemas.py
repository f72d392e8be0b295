from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from app.base.field_types import Id
from lirf_core.evidence.attacks.config import Strength
from lirf_core.evidence.results import PARTS
from lirf_core.evidence.results import Evidence as Found


class TrainedReference(BaseModel):
    """A reference that the worker trains: the model's architecture, from scratch, on these images alone."""

    model_config = ConfigDict(extra="forbid")

    train_on: Id = Field(description="A data set (`purpose=reference`) with images of preserved classes only.")
    keep_dataset: StrictBool = Field(
        False, description="Keep the data set. Otherwise it is shredded when the examination ends."
    )


class EvidenceCreate(BaseModel):
    """An empty body repeats the examination on the model as it is now."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reference": "birds-without-the-supplier"}]}
    )

    evaluation_set_id: Id | None = Field(
        None, description="Default: the deposit's evaluation set, or the model's newest."
    )
    dataset_id: Id | None = Field(
        None,
        description="For membership inference: a deposit set with images of the deposit's classes that the "
        "original was "
        "trained on. Default: the deposit's own set if it was kept, otherwise the figures measured at the deposit.",
    )
    reference: Id | TrainedReference | None = Field(
        None,
        description="What to compare with. A model of the same architecture, classes and preprocessing that was never "
        "trained on the deposited classes; or images to train one from.",
    )
    attackers: Strength = Field(
        "small",
        description="small: 10 images of each class, in minutes. full: up to 100, more ways to fine-tune and more "
        "steps; some thirty times as long.",
    )


class EvidenceProgress(BaseModel):
    part: str | None = Field(
        None, examples=["attacks"], description="reference (its training), " + ", ".join(PARTS) + "."
    )
    number: int | None = Field(None, description="Number of this part, from 1.")
    parts: int | None = None
    step: int | None = Field(None, description="Of the reference's training, while it is trained.")
    steps: int | None = None
    piece: str | None = Field(None, description="What it is doing.", examples=["target, attacker 2"])


class EvidenceSummary(BaseModel):
    id: str
    deposit: str
    model: str
    state: Literal["queued", "running", "finished", "failed", "cancelled"]
    reference: str | None = Field(description="The model to compare with.")
    reference_set_id: str | None = Field(description="The data set that a reference is trained from.")
    attackers: Strength
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    progress: EvidenceProgress
    failure: str | None = Field(description="Why it failed, and what to do.")
    revision: int | None = Field(description="The revision of the model that was examined.")


class Evidence(EvidenceSummary):
    digest: str | None = Field(description="SHA-256 of `found`, as in the audit.")
    found: Found | None = Field(description="The evidence. Null until the examination has finished.")
