from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from app.audit.chain import GENESIS, Head
from app.base.field_types import Id, Time
from app.base.paging import PageRequest


class AuditEvent(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    number: int = Field(description="Counts from 1, without gaps.")
    at: datetime
    actor: str = Field(description="Name of the API key, the user or the part of the service that acted: a label.")
    actor_id: str | None = Field(
        description="Id of the API key or user that acted; `worker`, `reconciler`, or `local` for the service and "
        "somebody on the server. Null in events of earlier versions."
    )
    action: str = Field(examples=["deposit.finished"])
    model: str | None
    subject: str | None = Field(description="Id of the thing that was changed.")
    reason: str | None
    details: dict[str, Any]
    request_id: str | None = Field(description="`X-Request-ID` of the request. Null for an act of the service itself.")
    previous: str = Field(description="Digest of the previous event.")
    digest: str = Field(description="SHA-256 over this event and `previous`.")


class AuditFilters(BaseModel):
    model: Id | None = None
    action: Id | None = None
    subject: Id | None = None
    actor: Id | None = None
    actor_id: Id | None = None
    request_id: Id | None = None
    since: Time | None = Field(None, description="At this time or later.")
    until: Time | None = Field(None, description="Before this time.")

    def filters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in AuditFilters.model_fields}


class AuditRequest(PageRequest, AuditFilters):
    pass


class AuditExport(AuditFilters):
    format: Literal["jsonl", "csv"] = "jsonl"


class AuditHead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    number: int
    digest: str


class VerificationRequest(BaseModel):
    """An optional anchor: an earlier head that was stored elsewhere."""

    number: int | None = Field(None, ge=0, lt=1 << 62)
    digest: str | None = Field(None, pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def both_or_neither(self) -> "VerificationRequest":
        if (self.number is None) != (self.digest is None):
            raise ValueError("send both `number` and `digest` of an anchor, or neither")
        return self

    def anchor(self) -> Head | None:
        return None if self.number is None or self.digest is None else Head(self.number, self.digest)


class Anchor(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: StrictInt = Field(ge=0, lt=1 << 62)
    digest: str = Field(pattern="^[0-9a-f]{64}$")


class Anchors(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"anchors": [{"number": 0, "digest": GENESIS}]}]}
    )

    anchors: list[Anchor] = Field(min_length=1, max_length=4_000, description="Earlier heads.")


class AuditFault(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    number: int
    what: str


class Verification(BaseModel):
    head: AuditHead
    is_intact: bool
    faults: list[AuditFault] = Field(description="The first 100 faults.")
    alarm: str | None = Field(
        description="Why the reconciler no longer anchors the audit in `LIRF_AUDIT_ANCHOR_FILE`. Null if all is well."
    )
