"""Types of the wire that every domain shares."""

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
        raise ValueError("text may not hold a NUL character")  # PostgreSQL stores none
    return text


def _no_number(given: Any) -> Any:
    """What pydantic would take for seconds since 1970, or since 1970 in milliseconds."""
    if not isinstance(given, datetime) and not re.match(r"\d{4}-", str(given)):
        raise ValueError("give a time with its offset, as RFC 3339 has it: 2026-10-31T23:59:00Z")
    return given


Time = Annotated[AwareDatetime, BeforeValidator(_no_number)]
Text = Annotated[str, AfterValidator(_without_nul)]
Reason = Annotated[Text, Field(min_length=1, max_length=2000, description="Why; the audit keeps it.")]
Id = Annotated[str, StringConstraints(max_length=64), AfterValidator(_without_nul)]


class Expiring(BaseModel):
    """A body that may say when what it makes ends."""

    expires_at: Time | None = Field(
        None,
        lt=datetime(2200, 1, 1, tzinfo=UTC),
        description="When it ends; without an end it holds until it is revoked.",
    )
    expires_in_seconds: StrictFloat | None = Field(None, gt=0, le=10 * 365 * 86400, allow_inf_nan=False)

    @model_validator(mode="after")
    def one_end(self) -> Self:
        if self.expires_at and self.expires_in_seconds:
            raise ValueError("give expires_at or expires_in_seconds, not both")
        return self

    def end(self) -> datetime | None:
        """When it ends, if it is made now."""
        return now() + timedelta(seconds=self.expires_in_seconds) if self.expires_in_seconds else self.expires_at
