"""Deposits and the classes they hold."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base
from app.jobs.mixin import CANCELLED, FAILED, QUEUED, RUNNING, JobMixin
from app.jobs.mixin import UNFINISHED as UNFINISHED


class State(StrEnum):
    """queued -> running -> deposited | failed | cancelled; deposited -> purged."""

    QUEUED = QUEUED
    RUNNING = RUNNING
    DEPOSITED = "deposited"
    FAILED = FAILED
    CANCELLED = CANCELLED
    PURGED = "purged"


class Kind(StrEnum):
    """classes: whole classes are forgotten. samples: single images are, and the model still answers their classes."""

    CLASSES = "classes"
    SAMPLES = "samples"


class DepositRow(JobMixin, Base):
    """A deposit job and, once it has succeeded, its result.

    `curve` holds the values of each loss by its name, and `step`, equally many of each. `scrubbed_object_id`: the
    module without the classes of other deposits, which waits; with it, the classes lose `scrubbed_loss` points.
    `scrubbed_to`: the revision up to which the module in use knows no class of others. `replaced_loss`: points that all
    replacements of the module have cost. `made_with`: the deposit whose job this one belongs to; None: its own.
    `module_revision`: the revision with which a rebase made the module and its figures anew; None: `revision`.
    """

    __tablename__ = "deposits"
    __table_args__ = (
        sa.Index(
            "uq_deposits_running",
            "model_id",
            unique=True,
            sqlite_where=sa.text("state = 'running'"),
            postgresql_where=sa.text("state = 'running'"),
        ),
        sa.Index("ix_deposits_state_rung_at", "state", "rung_at"),
        sa.Index("ix_deposits_model_id_restored_at", "model_id", "restored_at"),
    )

    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"), index=True)
    made_with: Mapped[str | None] = mapped_column(sa.ForeignKey("deposits.id"), index=True)
    kind: Mapped[str] = mapped_column(sa.String(20), default=Kind.CLASSES, server_default=Kind.CLASSES)
    dataset_id: Mapped[str] = mapped_column(sa.ForeignKey("datasets.id"))
    evaluation_set_id: Mapped[str | None] = mapped_column(sa.ForeignKey("datasets.id"))
    preserved_set_id: Mapped[str | None] = mapped_column(sa.ForeignKey("datasets.id"))
    config: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(sa.Text)
    keeps_dataset: Mapped[bool] = mapped_column(default=False)
    keeps_preserved_set: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    wants_evidence: Mapped[bool] = mapped_column(server_default=sa.false())  # until its examination is queued
    is_batch_halved: Mapped[bool] = mapped_column(default=False)
    curve: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON, deferred=True)  # only the console shows it
    revision: Mapped[int | None]
    module_object_id: Mapped[str | None] = mapped_column(sa.ForeignKey("vault_objects.id"))
    module_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    scrubbed_object_id: Mapped[str | None] = mapped_column(sa.ForeignKey("vault_objects.id"))
    scrubbed_loss: Mapped[float | None] = mapped_column(sa.Float)
    module_revision: Mapped[int | None]
    replaced_loss: Mapped[float] = mapped_column(sa.Float, default=0.0, server_default="0")
    scrubbed_to: Mapped[int | None]
    metrics: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON)
    losses: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON)  # `losses.Losses`
    purged_at: Mapped[datetime | None]
    purged_by: Mapped[str | None] = mapped_column(sa.String(100))
    purge_reason: Mapped[str | None] = mapped_column(sa.Text)
    restored_at: Mapped[datetime | None]
    restored_by: Mapped[str | None] = mapped_column(sa.String(100))
    restore_reason: Mapped[str | None] = mapped_column(sa.Text)

    @hybrid_property
    def made_at_revision(self) -> int | None:
        """The revision with which the module in use was made: by a rebase or, if none did, by the deposit's own job."""
        return self.revision if self.module_revision is None else self.module_revision

    @made_at_revision.inplace.expression
    @classmethod
    def _made_at_revision(cls) -> sa.ColumnElement[int | None]:
        return sa.func.coalesce(cls.module_revision, cls.revision)


class DepositClassRow(Base):
    """A class of a deposit: one that it forgets, or one that its single images show.

    `group_id`: until the job has ended, the deposit that is to hold the class, if its job makes several.
    """

    __tablename__ = "deposit_classes"

    deposit_id: Mapped[str] = mapped_column(sa.ForeignKey("deposits.id"), primary_key=True)
    class_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    group_id: Mapped[str | None] = mapped_column(sa.String(36), index=True)
