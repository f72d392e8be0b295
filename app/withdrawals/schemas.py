from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.base.field_types import Expiring, Id, Reason, Text
from app.base.paging import PageRequest
from app.withdrawals.tables import Visibility, WithdrawalState


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
    holder: Text = Field(min_length=1, max_length=200, description="Who uses it, such as a customer or a team.")
    reason: Reason
    visibility: Visibility = Field(
        Visibility.PUBLIC,
        description="public: everybody sees the classes in the model's answers. held: only requests with the "
        "withdrawal's token do (`POST /v1/withdrawals/{id}/token`).",
    )

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
    visibility: Visibility
    reason: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    ended_at: datetime | None
    ended_by: str | None


class WithdrawalRenewal(Expiring):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"expires_in_seconds": 86400, "reason": "the fair lasts a day longer"}]},
    )

    reason: Reason


class WithdrawalToken(BaseModel):
    withdrawal: str
    token: str = Field(description="For the header `Withdrawal-Token`. It is shown only once.")


class WithdrawalRequest(PageRequest):
    model: Id | None = Field(None, description="Only withdrawals of this model.")
