from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.access.service import EXTERNAL, Role
from app.base.field_types import Expiring, Text


class KeyCreate(Expiring):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "licensing-team", "roles": ["custodian"]}]}
    )

    name: Text = Field(min_length=1, max_length=100, description="Who uses it; the audit names it.")
    roles: list[Role] = Field([], description="None: may ask for predictions and read, nothing else.")

    @field_validator("name")
    @classmethod
    def nobody_of_a_provider(cls, name: str) -> str:
        if name.startswith(f"{EXTERNAL}:"):
            raise ValueError(f"`{EXTERNAL}:` begins the names of an identity provider's people")
        return name


class Key(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    prefix: str
    roles: list[Role]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute; none: never.")
    revoked_at: datetime | None


class NewKey(Key):
    key: str = Field(description="The key itself; it is told this once.")
