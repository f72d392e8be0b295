"""Withdrawals: leases on deposits."""

from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, new_id, now


class WithdrawalState(StrEnum):
    """The state of a withdrawal at a given time; see `service.state`."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"


class Visibility(StrEnum):
    """Who sees the classes of an active withdrawal: everybody, or only requests with its token."""

    PUBLIC = "public"
    HELD = "held"


class WithdrawalRow(Base):
    """While it is active, the classes of its deposits answer. Revocation or expiry sets `ended_at`.

    `token_digest`: for a held withdrawal; None until a token is issued.
    """

    __tablename__ = "withdrawals"
    __table_args__ = (sa.Index("ix_withdrawals_model_id_ended_at", "model_id", "ended_at"),)

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"))
    holder: Mapped[str] = mapped_column(sa.String(200))
    visibility: Mapped[str] = mapped_column(sa.String(10), default=Visibility.PUBLIC, server_default=Visibility.PUBLIC)
    token_digest: Mapped[str | None] = mapped_column(sa.String(64))
    reason: Mapped[str] = mapped_column(sa.Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    created_by: Mapped[str] = mapped_column(sa.String(100))
    expires_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    ended_by: Mapped[str | None] = mapped_column(sa.String(100))


class WithdrawalDepositRow(Base):
    """One deposit of a withdrawal."""

    __tablename__ = "withdrawal_deposits"

    withdrawal_id: Mapped[str] = mapped_column(sa.ForeignKey("withdrawals.id"), primary_key=True)
    deposit_id: Mapped[str] = mapped_column(sa.ForeignKey("deposits.id"), primary_key=True)
