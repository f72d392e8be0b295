"""Checkpoints of jobs."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base


class CheckpointRow(Base):
    """Where a part of an unfinished job goes on. `job_id` is the id of a row of any kind of job."""

    __tablename__ = "job_checkpoints"

    job_id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    part: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    object_id: Mapped[str] = mapped_column(sa.ForeignKey("vault_objects.id"))
