from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.access.service import Role
from app.base.field_types import Expiring, Text

ModelPattern = Annotated[
    str,
    Field(
        max_length=64,
        pattern=r"^[a-z0-9*][a-z0-9._*-]*$",
        description="The name of a model, in which `*` stands for any characters, such as `eu-*`.",
    ),
]


class KeyCreate(Expiring):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "licensing-team", "roles": ["custodian"]}]}
    )

    name: Text = Field(
        min_length=1,
        max_length=100,
        description="Who uses the key. The audit records this name beside the key's id. No other valid key may have "
        "it, in upper or lower case.",
    )
    roles: list[Role] = Field(
        [], max_length=len(Role), description="Without a role, the key may only ask for predictions and read."
    )
    models: list[ModelPattern] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Binds the key to the models whose names match one of these patterns, now and later. It sees "
        "nothing of others. Default: all models.",
        examples=[["birds", "eu-*"]],
    )


class Key(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    prefix: str
    roles: list[Role]
    models: list[str] | None = Field(description="The patterns that it is bound to. Null if it is not bound.")
    made_by_id: str = Field(
        description="Id of the key or user that made it. `local`: somebody on the server. `unknown`: an earlier "
        "version did not record it."
    )
    person_id: str = Field(
        description="Whom it counts as if an act needs two people: a key made with another key counts as the same "
        "person. One person cannot approve its own request."
    )
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute. Null if the key was never used.")
    revoked_at: datetime | None


class NewKey(Key):
    key: str = Field(description="The key itself. It is shown only this once.")
