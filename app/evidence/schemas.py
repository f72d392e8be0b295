from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.base.field_types import Id
from lirf_core.evidence.examination import PARTS
from lirf_core.evidence.examination import Evidence as Found


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
    reference: Id | None = Field(
        None,
        description="A model to compare with: same architecture, classes and preprocessing, but never trained on the "
        "deposited classes.",
    )


class EvidenceProgress(BaseModel):
    part: str | None = Field(None, examples=["relearning"], description=", ".join(PARTS) + ".")
    number: int | None = Field(None, description="Number of this part, from 1.")
    parts: int | None = None


class EvidenceSummary(BaseModel):
    id: str
    deposit: str
    model: str
    state: Literal["queued", "running", "finished", "failed", "cancelled"]
    reference: str | None
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
