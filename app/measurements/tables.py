"""Measurements of a model with any of its deposits withdrawn."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base
from app.jobs.mixin import JobMixin
from app.jobs.mixin import State as State


class MeasurementRow(JobMixin, Base):
    """How a revision answers an evaluation set, with deposits withdrawn. A deposit's own is finished from the start.

    `deposit_ids`: those that are withdrawn together; None for each outstanding one alone, and all together. `views` are
    `app.measurements.schemas.View`s, of the model's `revision` with the modules after so many `module_replacements`.
    `original`: percent by class of the original network.
    """

    __tablename__ = "measurements"
    __table_args__ = (
        sa.Index("ix_measurements_state_rung_at", "state", "rung_at"),
        sa.Index("ix_measurements_model_id_state", "model_id", "state"),
    )

    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"))
    evaluation_set_id: Mapped[str] = mapped_column(sa.ForeignKey("datasets.id"))
    deposit_ids: Mapped[list[str] | None] = mapped_column(sa.JSON(none_as_null=True))
    revision: Mapped[int | None]
    module_replacements: Mapped[int] = mapped_column(default=0, server_default="0")
    original: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    warnings: Mapped[list[str] | None] = mapped_column(sa.JSON(none_as_null=True))
    views: Mapped[list[dict[str, Any]] | None] = mapped_column(sa.JSON(none_as_null=True))
