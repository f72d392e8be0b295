"""Deposits and the classes they hold."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, new_id, now


class State(StrEnum):
    """queued -> running -> deposited | failed | cancelled; deposited -> purged."""

    QUEUED = "queued"
    RUNNING = "running"
    DEPOSITED = "deposited"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PURGED = "purged"


UNFINISHED = (State.QUEUED, State.RUNNING)


class DepositRow(Base):
    """A deposit job and, once deposited, its result. `token` is the fencing token of the newest claim.

    `curve`: the values of each loss by its name, and `step`, as many of each.
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

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"), index=True)
    state: Mapped[str] = mapped_column(sa.String(20), default=State.QUEUED)
    dataset_id: Mapped[str] = mapped_column(sa.ForeignKey("datasets.id"))
    evaluation_set_id: Mapped[str | None] = mapped_column(sa.ForeignKey("datasets.id"))
    config: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(sa.Text)
    keeps_dataset: Mapped[bool] = mapped_column(default=False)
    wants_evidence: Mapped[bool] = mapped_column(server_default=sa.false())  # until it is queued
    created_at: Mapped[datetime] = mapped_column(default=now)
    created_by: Mapped[str] = mapped_column(sa.String(100))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    rung_at: Mapped[datetime] = mapped_column(default=now)
    attempts: Mapped[int] = mapped_column(default=0)
    token: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    is_cancel_requested: Mapped[bool] = mapped_column(default=False)
    is_batch_halved: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    curve: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON, deferred=True)  # for the console alone
    failure: Mapped[str | None] = mapped_column(sa.Text)
    revision: Mapped[int | None]
    module_object_id: Mapped[str | None] = mapped_column(sa.ForeignKey("vault_objects.id"))
    module_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON)
    purged_at: Mapped[datetime | None]
    purged_by: Mapped[str | None] = mapped_column(sa.String(100))
    purge_reason: Mapped[str | None] = mapped_column(sa.Text)
    restored_at: Mapped[datetime | None]
    restored_by: Mapped[str | None] = mapped_column(sa.String(100))
    restore_reason: Mapped[str | None] = mapped_column(sa.Text)


class CheckpointRow(Base):
    """Where a part of an unfinished deposit goes on: the training of its target, or a scrubbing of an older module."""

    __tablename__ = "deposit_checkpoints"

    deposit_id: Mapped[str] = mapped_column(sa.ForeignKey("deposits.id"), primary_key=True)
    part: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    object_id: Mapped[str] = mapped_column(sa.ForeignKey("vault_objects.id"))


class DepositClassRow(Base):
    """A class of a deposit."""

    __tablename__ = "deposit_classes"

    deposit_id: Mapped[str] = mapped_column(sa.ForeignKey("deposits.id"), primary_key=True)
    class_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
