from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from app.base.field_types import Id, Reason
from app.deposits.schemas import DepositConfigIn, Progress


class RebaseCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "twenty deposits have cost two points"}]}
    )

    dataset_id: Id | None = Field(
        None,
        description="Images of exactly the classes of all outstanding deposits (`purpose=deposit`). Default: the "
        "deposit sets, if all of them were kept (`keep_dataset` of a deposit).",
    )
    evaluation_set_id: Id | None = Field(None, description="Default: the model's newest evaluation set.")
    keep_dataset: StrictBool = Field(
        False, description="Keep the images of `dataset_id`. Otherwise they are shredded when the rebase ends."
    )
    reason: Reason
    config: DepositConfigIn | None = Field(
        None, description="Settings of a deposit. What is left out is as in the newest outstanding deposit."
    )


class Rebase(BaseModel):
    id: str
    model: str
    state: Literal["queued", "running", "finished", "failed", "cancelled"]
    reason: str
    dataset_id: str | None
    evaluation_set_id: str | None
    keep_dataset: bool
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    progress: Progress
    failure: str | None = Field(description="Why it failed, with the figures, and what to do.")
    revision: int | None = Field(description="The revision of the model that it made.")
    deposits: list[str] = Field(description="The deposits whose modules it made anew. They have the figures.")
    config: DepositConfigIn
