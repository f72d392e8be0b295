"""Audit events, and the head of their chain."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, new_id, now


class AuditEventRow(Base):
    """Who did what to which model, and why. Rows can only be added: triggers refuse all else (migration 0002).

    `number` counts from 1, without gaps. `digest` covers the event and `previous`, the previous event's digest.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        sa.Index("ix_audit_events_model_action", "model", "action"),
        sa.Index("ix_audit_events_subject_action", "subject", "action"),
    )

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    number: Mapped[int] = mapped_column(sa.BigInteger, unique=True)
    at: Mapped[datetime] = mapped_column(default=now)
    actor: Mapped[str] = mapped_column(sa.String(100))
    actor_id: Mapped[str | None] = mapped_column(sa.String(36), index=True)
    action: Mapped[str] = mapped_column(sa.String(50), index=True)
    model: Mapped[str | None] = mapped_column(sa.String(100))
    subject: Mapped[str | None] = mapped_column(sa.String(64))
    reason: Mapped[str | None] = mapped_column(sa.Text)
    request_id: Mapped[str | None] = mapped_column(sa.String(64), index=True)
    details: Mapped[dict[str, Any]]
    previous: Mapped[str] = mapped_column(sa.String(64))
    digest: Mapped[str] = mapped_column(sa.String(64))


class AuditAnchorRow(Base):
    """What the reconciler's anchor file holds: a single row. It shows whether the file lost anchors.

    `alarm` says why the reconciler refuses to go on with the file; None if all is well.
    """

    __tablename__ = "audit_anchor"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(sa.BigInteger)
    digest: Mapped[str] = mapped_column(sa.String(64))
    alarm: Mapped[str | None] = mapped_column(sa.Text)


class AuditHeadRow(Base):
    """The newest event: a single row. Its lock puts the events of concurrent transactions in order."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(sa.BigInteger)
    digest: Mapped[str] = mapped_column(sa.String(64))
