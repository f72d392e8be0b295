from datetime import datetime

from pydantic import BaseModel, ConfigDict

from app.base.field_types import Reason


class RestorationCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "the licence was bought for all time"}]}
    )

    reason: Reason


class Restoration(BaseModel):
    deposit: str
    model: str
    classes: list[str]
    restored_at: datetime
    restored_by: str
    reason: str
