from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.paging import PageRequest
from app.wire import Id


class AuditEvent(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    at: datetime
    actor: str = Field(description="Name of the API key, or of the part of the service, that acted.")
    action: str = Field(examples=["deposit.finished"])
    model: str | None
    subject: str | None = Field(description="Id of what was changed.")
    reason: str | None
    details: dict[str, Any]


class AuditRequest(PageRequest):
    model: Id | None = None
    action: Id | None = None
    subject: Id | None = None
