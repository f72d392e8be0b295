from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from app.paging import PageRequest
from app.wire import Id, Text
from app.withdrawals.service import WithdrawalState


class WithdrawalCreate(BaseModel):
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
    reason: Text = Field(min_length=1, max_length=2000, description="Why; the audit keeps it.")
    expires_at: AwareDatetime | None = Field(
        None,
        lt=datetime(2200, 1, 1, tzinfo=UTC),
        description="When it ends; without an end it holds until it is revoked.",
    )
    expires_in_seconds: float | None = Field(None, gt=0, le=10 * 365 * 86400, allow_inf_nan=False)

    @field_validator("deposits")
    @classmethod
    def each_once(cls, ids: list[str]) -> list[str]:
        return sorted(set(ids))

    @model_validator(mode="after")
    def one_end(self) -> "WithdrawalCreate":
        if self.expires_at and self.expires_in_seconds:
            raise ValueError("give expires_at or expires_in_seconds, not both")
        return self


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
