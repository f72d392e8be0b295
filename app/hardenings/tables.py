"""Hardenings of targets."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base
from app.jobs.mixin import UNFINISHED, JobMixin
from app.jobs.mixin import State as State

_IS_UNFINISHED = sa.text(f"state in {UNFINISHED}")


class HardeningRow(JobMixin, Base):
    """The hardening of the target of a revision and, once it has succeeded, its hardened network.

    A result beyond the model's bounds is `failed`.

    `deposit_id`: the deposit that made the revision. `dataset_id`: the images that it learns from. `losses`: what the
    preserved classes lose by it (`app.deposits.losses.Losses`). `shredded_at`: when the hardened network was destroyed.
    """

    __tablename__ = "hardenings"
    __table_args__ = (
        sa.Index(
            "uq_hardenings_unfinished",
            "model_id",
            unique=True,
            sqlite_where=_IS_UNFINISHED,
            postgresql_where=_IS_UNFINISHED,
        ),
        sa.Index("ix_hardenings_state_rung_at", "state", "rung_at"),
        sa.Index("ix_hardenings_model_id_revision", "model_id", "revision"),
    )

    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"))
    deposit_id: Mapped[str] = mapped_column(sa.ForeignKey("deposits.id"))
    revision: Mapped[int]
    dataset_id: Mapped[str] = mapped_column(sa.ForeignKey("datasets.id"))
    evaluation_set_id: Mapped[str | None] = mapped_column(sa.ForeignKey("datasets.id"))
    keeps_dataset: Mapped[bool] = mapped_column(default=False)
    config: Mapped[dict[str, Any]]
    curve: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON, deferred=True)
    object_id: Mapped[str | None] = mapped_column(sa.ForeignKey("vault_objects.id"))
    losses: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON)
    shredded_at: Mapped[datetime | None]
