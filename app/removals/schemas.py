from datetime import datetime

from pydantic import BaseModel, Field

from app.base.field_types import Reason, Text


class RemovalConfirmation(BaseModel):
    """Needed if the model has weights. A registration without weights is removed without it."""

    confirm: Text | None = Field(None, max_length=200, description="The model's name again, to confirm the removal.")
    reason: Reason | None = Field(None, description="Why. The audit records it.")


class Removal(BaseModel):
    model: str
    removed_at: datetime
    removed_by: str
    reason: str
    shred_effective_at: datetime | None = Field(
        description="When backups no longer hold the keys (`LIRF_BACKUP_DAYS`). Null if the service does not know."
    )
    still_in: list[str] = Field(
        description="What still has destroyed keys of this model, and why. The reconciler erases it as soon as that "
        "ends. Empty: nothing."
    )
    also_in: list[str] = Field(
        description="What has copies of the destroyed keys that the service cannot erase: the log of PostgreSQL. They "
        "are wrapped, so they are worthless without the master key of that time. Empty with SQLite."
    )
