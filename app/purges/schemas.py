from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from app.base.field_types import Label, Reason


class PurgeCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"classes": ["dodo"], "reason": "the licence holder asked for it"}]},
    )

    classes: list[Label] = Field(
        min_length=1,
        max_length=100_000,
        description="All classes of the deposit, to confirm the purge.",
    )
    reason: Reason


class Rest(BaseModel):
    what: str = Field(description="What was trained with the purged classes and could relearn them.")
    cure: str = Field(description="How to destroy that, too.")
    deposits: list[str] = Field(description="Ids of the deposits that stand in the way, because they need it.")


class Purge(BaseModel):
    deposit: str
    model: str
    classes: list[str]
    purged_at: datetime
    purged_by: str
    reason: str
    shred_effective_at: datetime | None = Field(
        description="When backups no longer hold the keys (`LIRF_BACKUP_DAYS`). Null if the service does not know."
    )
    still_in: list[str] = Field(
        description="What still has destroyed keys of this model, and why, for example a reader that holds a snapshot "
        "of the database. The reconciler erases it as soon as that ends (`vault.erased` in the audit). Empty: nothing."
    )
    also_in: list[str] = Field(
        description="What has copies of the destroyed keys that the service cannot erase: the log of PostgreSQL. They "
        "are wrapped, so they are worthless without the master key of that time. Empty with SQLite."
    )
    scrubbed: list[str] = Field(
        description="Ids of older deposits whose module knew the purged classes. It was destroyed, and their scrubbed "
        "one is in use from now on. If the model has an evaluation set, a measurement of what that costs is queued."
    )
    rest: Rest = Field(description="What can still relearn the purged classes, and the cure.")
