"""Field types that the request bodies and queries of all domains share."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    StrictFloat,
    StringConstraints,
    model_validator,
)

from app.base.database import now


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("the text must not contain a NUL character")  # PostgreSQL cannot store one
    return text


def _reject_number(value: Any) -> Any:
    """Reject a number, which pydantic would read as seconds or milliseconds since 1970."""
    if not isinstance(value, datetime) and not re.match(r"\d{4}-", str(value)):
        raise ValueError("give a time with its offset (RFC 3339), for example 2026-10-31T23:59:00Z")
    return value


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC, this time lies before the year 1 or after the year 9999") from None


Time = Annotated[AwareDatetime, BeforeValidator(_reject_number), AfterValidator(_in_utc)]
Text = Annotated[str, AfterValidator(_without_nul)]
Reason = Annotated[Text, Field(min_length=1, max_length=2000, description="Why. The audit records it.")]
Label = Annotated[Text, Field(max_length=200, description="The name of a class.")]
Id = Annotated[str, StringConstraints(max_length=64), AfterValidator(_without_nul)]


class Expiring(BaseModel):
    """A request body with an optional expiry time."""

    expires_at: Time | None = Field(
        None,
        lt=datetime(2200, 1, 1, tzinfo=UTC),
        description="When it ends. If not set, it lasts until it is revoked.",
    )
    expires_in_seconds: StrictFloat | None = Field(None, gt=0, le=10 * 365 * 86400, allow_inf_nan=False)

    @model_validator(mode="after")
    def at_most_one_end(self) -> Self:
        if self.expires_at and self.expires_in_seconds:
            raise ValueError("give expires_at or expires_in_seconds, not both")
        return self

    def end(self) -> datetime | None:
        """The expiry time, counted from now; None if there is none."""
        return now() + timedelta(seconds=self.expires_in_seconds) if self.expires_in_seconds else self.expires_at
