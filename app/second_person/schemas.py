from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.base.field_types import Id, Reason
from app.base.paging import PageRequest
from app.second_person.service import Act, ApprovalRow, ApprovalState, state


class Approval(BaseModel):
    """A request for approval, and the decision."""

    id: str
    model: str
    act: Act
    wish: dict[str, Any] = Field(description="Everything that was requested.")
    reason: str
    state: ApprovalState
    requested_at: datetime
    requested_by: str
    requested_key_id: str = Field(description="Id of the key or user that made the request. Names are only labels.")
    expires_at: datetime = Field(description="Another person may approve it until then.")
    decided_at: datetime | None
    decided_by: str | None
    decided_key_id: str | None
    decision_reason: str | None
    result_id: str | None = Field(description="Id of the result: the new withdrawal, or the thing that was changed.")
    still_in: list[str] = Field(
        [],
        description="What still has destroyed keys of the model. Only in the answer to an approval.",
    )

    @classmethod
    def from_row(cls, row: ApprovalRow, model_name: str, still_in: Sequence[str] = ()) -> "Approval":
        names = cls.model_fields.keys() - {"model", "state", "still_in"}
        values = {name: getattr(row, name) for name in names}
        return cls(model=model_name, state=state(row), still_in=list(still_in), **values)


class ApprovalRequest(PageRequest):
    model: Id | None = Field(None, description="Only requests for this model.")
    waiting: bool = Field(False, description="Only requests that wait for a decision.")


class Refusal(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "the licence does not cover the fair"}]}
    )

    reason: Reason
