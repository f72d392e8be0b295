from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.base.field_types import Id

Percent = float | None


class View(BaseModel):
    """How the model answers held-out images, by raw logits, while exactly these deposits are withdrawn.

    Losses are percentage points since the original network; null if it was destroyed.
    """

    deposits: list[str] = Field(description="Ids of the withdrawn deposits. None of them: the target network.")
    preserved_accuracy: Percent = Field(description="Percent, of the classes that were never deposited.")
    preserved_loss: Percent
    withdrawn_accuracy: Percent = Field(description="Percent, of the classes of the withdrawn deposits.")
    withdrawn_loss: Percent
    average_accuracy: Percent = Field(description="Percent, of preserved and withdrawn classes together.")
    by_class: dict[str, Percent] = Field(
        description="All classes with images, of the first view and of the last. Of views between them, only the "
        "classes of the withdrawn deposits."
    )


class MeasurementCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"deposits": ["0193a1c2-7f00-7000-8000-000000000000"]}]}
    )

    deposits: list[Id] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Deposits to withdraw together. Default: each outstanding deposit alone, and all together.",
    )
    evaluation_set_id: Id | None = Field(None, description="Default: the model's newest evaluation set.")


class Measurement(BaseModel):
    id: str
    model: str
    state: Literal["queued", "running", "finished", "failed", "cancelled"]
    deposits: list[str] | None = Field(description="What was asked for. Null: each alone, and all together.")
    evaluation_set_id: str
    revision: int | None = Field(description="The revision of the model that was measured.")
    created_at: datetime
    created_by: str
    finished_at: datetime | None
    failure: str | None = Field(description="Why it failed, and what to do.")
    views: list[View] | None = Field(description="The target network first. Null until it has finished.")
    warnings: list[str] = Field(description="Preserved classes that lost much, and what else to look at.")
