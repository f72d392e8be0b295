from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from app.classes.service import ClassState


class ModelClass(BaseModel):
    """A class of a model. Accuracy is in percent, on held-out images and raw logits; null where it was not measured."""

    model_config = ConfigDict(from_attributes=True)

    index: int
    name: str
    state: ClassState
    since: datetime
    by: str
    reason: str | None
    deposit_id: str | None
    withdrawals: list[str] = Field(description="Active withdrawals that show the class.")
    until: datetime | None = Field(description="When the last of them ends; null for never, or for none.")
    accuracy_before: float | None = Field(description="Of the network before the deposit.")
    accuracy_after: float | None = Field(description="Of the target network.")
    accuracy_recovered: float | None = Field(description="Of the recover network.")


class ModelClasses(BaseModel):
    model: str
    classes: list[ModelClass]
