"""Evidence of deposits, and the work that gathers it."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, new_id, now


class State(StrEnum):
    """queued -> running -> finished | failed | cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EvidenceRow(Base):
    """An examination of a deposit. `token` is the fencing token of the newest claim.

    `attempts` counts its troubles, and one that runs; `restarts` how often what it examined was replaced or destroyed.

    `found`: `lirf_core.evidence.examination.Evidence`, of the model's `revision`.
    """

    __tablename__ = "evidence"
    __table_args__ = (
        sa.Index(
            "uq_evidence_unfinished",
            "deposit_id",
            unique=True,
            sqlite_where=sa.text("state IN ('queued', 'running')"),
            postgresql_where=sa.text("state IN ('queued', 'running')"),
        ),
        sa.Index("ix_evidence_state_rung_at", "state", "rung_at"),
    )

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    deposit_id: Mapped[str] = mapped_column(sa.ForeignKey("deposits.id"), index=True)
    state: Mapped[str] = mapped_column(sa.String(20), default=State.QUEUED)
    evaluation_set_id: Mapped[str] = mapped_column(sa.ForeignKey("datasets.id"))
    members_id: Mapped[str | None] = mapped_column(sa.ForeignKey("datasets.id"))
    reference_id: Mapped[str | None] = mapped_column(sa.ForeignKey("models.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    created_by: Mapped[str] = mapped_column(sa.String(100))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    rung_at: Mapped[datetime] = mapped_column(default=now)
    attempts: Mapped[int] = mapped_column(default=0)
    restarts: Mapped[int] = mapped_column(default=0, server_default="0")
    token: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    failure: Mapped[str | None] = mapped_column(sa.Text)
    revision: Mapped[int | None]
    found: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON, deferred=True)  # some 100 KB
