"""Evidence of deposits, and the examinations that gather it."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base
from app.jobs.mixin import UNFINISHED as UNFINISHED
from app.jobs.mixin import JobMixin
from app.jobs.mixin import State as State


class EvidenceRow(JobMixin, Base):
    """An examination of a deposit.

    `reference_set_id`: images of preserved classes that a reference was trained from, which is `reference_object_id`.
    `attackers`: how strong they are. `restarts` counts how often something under examination was replaced or
    destroyed. `found` is `lirf_core.evidence.results.Evidence` of the model's `revision`.
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

    deposit_id: Mapped[str] = mapped_column(sa.ForeignKey("deposits.id"), index=True)
    evaluation_set_id: Mapped[str] = mapped_column(sa.ForeignKey("datasets.id"))
    members_id: Mapped[str | None] = mapped_column(sa.ForeignKey("datasets.id"))
    reference_id: Mapped[str | None] = mapped_column(sa.ForeignKey("models.id"))
    reference_set_id: Mapped[str | None] = mapped_column(sa.ForeignKey("datasets.id"))
    keeps_reference_set: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    reference_object_id: Mapped[str | None] = mapped_column(sa.ForeignKey("vault_objects.id"))
    attackers: Mapped[str] = mapped_column(sa.String(8), default="small", server_default="small")
    restarts: Mapped[int] = mapped_column(default=0, server_default="0")
    revision: Mapped[int | None]
    found: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON, deferred=True)  # about 100 kB
