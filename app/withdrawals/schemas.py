from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.paging import PageRequest
from app.wire import Expiring, Id, Reason, Text
from app.withdrawals.tables import WithdrawalState


class WithdrawalCreate(Expiring):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "deposits": ["0193a1c2-7f00-7000-8000-000000000000"],
                    "holder": "press archive",
                    "reason": "licence renewed for the fair",
                    "expires_in_seconds": 3600,
                }
            ]
        },
    )

    deposits: list[Id] = Field(min_length=1, max_length=1000, description="Ids of finished deposits of one model.")
    holder: Text = Field(min_length=1, max_length=200, description="For whom.")
    reason: Reason

    @field_validator("deposits")
    @classmethod
    def each_once(cls, ids: list[str]) -> list[str]:
        return sorted(set(ids))


class Withdrawal(BaseModel):
    id: str
    model: str
    deposits: list[str]
    classes: list[str]
    state: WithdrawalState
    holder: str
    reason: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    ended_at: datetime | None
    ended_by: str | None


class WithdrawalRequest(PageRequest):
    model: Id | None = Field(None, description="Only withdrawals of this model.")
