from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from app.classes.service import ClassState


class ModelClass(BaseModel):
    """A class of a model. Accuracies are in percent, on held-out images and raw logits; null if not measured."""

    model_config = ConfigDict(from_attributes=True)

    index: int
    name: str
    state: ClassState
    since: datetime
    by: str
    reason: str | None
    deposit_id: str | None
    withdrawals: list[str] = Field(description="Ids of the active withdrawals of the class.")
    until: datetime | None = Field(
        description="When the last of the withdrawals ends. Null if one never ends, or if there are none."
    )
    accuracy_original: float | None = Field(description="Of the original network, revision 0.")
    accuracy_before: float | None = Field(
        description="Of the network before the deposit that holds the class; for a preserved class, before the newest "
        "deposit."
    )
    accuracy_after: float | None = Field(description="Of the target network, as last measured.")
    accuracy_recovered: float | None = Field(
        description="Of the recover network, as last measured: with only this class's deposit withdrawn; for a "
        "preserved class, with all deposits withdrawn."
    )
    measured_at: datetime | None = Field(description="When it was last measured, which every publication does.")


class ModelClasses(BaseModel):
    model: str
    classes: list[ModelClass]
