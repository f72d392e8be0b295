"""Requests for approval by a second person."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, new_id, now


class ApprovalRow(Base):
    """A request that somebody else must approve. `wish` is everything that was requested."""

    __tablename__ = "approvals"

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"), index=True)
    act: Mapped[str] = mapped_column(sa.String(20))
    wish: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(sa.Text)
    requested_at: Mapped[datetime] = mapped_column(default=now)
    requested_by: Mapped[str] = mapped_column(sa.String(100))
    requested_key_id: Mapped[str] = mapped_column(sa.String(36))
    expires_at: Mapped[datetime]
    decision: Mapped[str | None] = mapped_column(sa.String(10))
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None] = mapped_column(sa.String(100))
    decided_key_id: Mapped[str | None] = mapped_column(sa.String(36))
    decision_reason: Mapped[str | None] = mapped_column(sa.Text)
    result_id: Mapped[str | None] = mapped_column(sa.String(64))
