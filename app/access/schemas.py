from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.access.service import EXTERNAL, Role
from app.base.field_types import Expiring, Text


class KeyCreate(Expiring):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "licensing-team", "roles": ["custodian"]}]}
    )

    name: Text = Field(min_length=1, max_length=100, description="Who uses the key. The audit records this name.")
    roles: list[Role] = Field([], description="Without a role, the key may only ask for predictions and read.")

    @field_validator("name")
    @classmethod
    def name_is_not_external(cls, name: str) -> str:
        if name.startswith(f"{EXTERNAL}:"):
            raise ValueError(f"names that begin with `{EXTERNAL}:` are reserved for users of the identity provider")
        return name


class Key(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    prefix: str
    roles: list[Role]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute. Null if the key was never used.")
    revoked_at: datetime | None


class NewKey(Key):
    key: str = Field(description="The key itself. It is shown only this once.")
