"""Rebases of models."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base
from app.jobs.mixin import UNFINISHED, JobMixin
from app.jobs.mixin import State as State

_IS_UNFINISHED = sa.text(f"state in {UNFINISHED}")


class RebaseRow(JobMixin, Base):
    """A rebase of a model: its target and all outstanding modules, made anew from the original network.

    `dataset_id`: the images, which end with the job unless `keeps_dataset`; None: the deposit sets that were kept.
    `revision`, `deposits`: what it published, and the deposits whose modules it made.
    """

    __tablename__ = "rebases"
    __table_args__ = (
        sa.Index(
            "uq_rebases_unfinished",
            "model_id",
            unique=True,
            sqlite_where=_IS_UNFINISHED,
            postgresql_where=_IS_UNFINISHED,
        ),
        sa.Index("ix_rebases_state_rung_at", "state", "rung_at"),
    )

    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(sa.ForeignKey("datasets.id"))
    evaluation_set_id: Mapped[str | None] = mapped_column(sa.ForeignKey("datasets.id"))
    keeps_dataset: Mapped[bool] = mapped_column(default=False)
    config: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(sa.Text)
    curve: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON, deferred=True)
    revision: Mapped[int | None]
    deposits: Mapped[list[str] | None] = mapped_column(sa.JSON)
