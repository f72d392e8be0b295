from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.base.field_types import Id
from lirf_core.evidence.examination import PARTS
from lirf_core.evidence.examination import Evidence as Found


class EvidenceCreate(BaseModel):
    """With an empty body, what was measured after the deposit is measured again, of the model as it is now."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reference": "birds-without-the-supplier"}]}
    )

    evaluation_set_id: Id | None = Field(None, description="Default: the deposit's, or the model's newest.")
    dataset_id: Id | None = Field(
        None,
        description="A deposit set of the deposit's classes, whose images the original was trained on, for membership "
        "inference. Default: the deposit's own where it was kept; else what was measured at the deposit stands.",
    )
    reference: Id | None = Field(
        None,
        description="A model of the same architecture, classes and preprocessing that never saw the deposited classes, "
        "to compare with.",
    )


class EvidenceProgress(BaseModel):
    part: str | None = Field(None, examples=["relearning"], description=", ".join(PARTS) + ".")
    number: int | None = Field(None, description="Which of the parts it is, from 1.")
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
    failure: str | None = Field(description="Why it failed and what to do.")
    revision: int | None = Field(description="The revision of the model that was examined.")


class Evidence(EvidenceSummary):
    digest: str | None = Field(description="SHA-256 of `found`, as the audit has it.")
    found: Found | None = Field(description="Null until it has finished.")
