from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.base.field_types import Id, Reason
from app.base.paging import PageRequest
from app.second_person.service import Act, ApprovalRow, ApprovalState, state


class Approval(BaseModel):
    """What somebody asked for, and what somebody else decided."""

    id: str
    model: str
    act: Act
    wish: dict[str, Any] = Field(description="All that was asked for.")
    reason: str
    state: ApprovalState
    requested_at: datetime
    requested_by: str
    expires_at: datetime = Field(description="Until then somebody with another key may approve it.")
    decided_at: datetime | None
    decided_by: str | None
    decision_reason: str | None
    result_id: str | None = Field(description="What the approved act made: the withdrawal, or what it changed.")

    @classmethod
    def from_row(cls, row: ApprovalRow, model_name: str) -> "Approval":
        names = cls.model_fields.keys() - {"model", "state"}
        return cls(model=model_name, state=state(row), **{name: getattr(row, name) for name in names})


class ApprovalRequest(PageRequest):
    model: Id | None = Field(None, description="Only of this model.")
    waiting: bool = Field(False, description="Only those that wait for a decision.")


class Refusal(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "the licence does not cover the fair"}]}
    )

    reason: Reason
