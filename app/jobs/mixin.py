"""What the rows of every kind of job have in common."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import new_id, now

# The states that the machine knows. A kind adds its own for a job that has succeeded.
QUEUED, RUNNING, FAILED, CANCELLED = "queued", "running", "failed", "cancelled"
UNFINISHED = (QUEUED, RUNNING)


class State(StrEnum):
    """Of a job whose success is `finished`. Deposits have states of their own."""

    QUEUED = QUEUED
    RUNNING = RUNNING
    FINISHED = "finished"
    FAILED = FAILED
    CANCELLED = CANCELLED


class JobMixin:
    """Columns of a job: queued -> running -> a kind's own success | failed | cancelled.

    `token` is the fencing token of the newest claim, `attempts` counts claims that ended in trouble and the one that
    runs, `rung_at` is when a worker was last told of the job.
    """

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    state: Mapped[str] = mapped_column(sa.String(20), default=QUEUED)
    created_at: Mapped[datetime] = mapped_column(default=now)
    created_by: Mapped[str] = mapped_column(sa.String(100))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    rung_at: Mapped[datetime] = mapped_column(default=now)
    attempts: Mapped[int] = mapped_column(default=0)
    token: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    is_cancel_requested: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    failure: Mapped[str | None] = mapped_column(sa.Text)
