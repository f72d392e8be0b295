"""Requests that were carried out, by the key that their sender gave them."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, now


class IdempotencyRow(Base):
    """Written with the change of a request. `answer` is sealed, and comes a moment later: none says that it was lost.

    `subject` is the thing that was changed, as the audit names it.
    """

    __tablename__ = "idempotency_keys"

    api_key_id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(255), primary_key=True)
    request_digest: Mapped[str] = mapped_column(sa.String(64))
    subject: Mapped[str | None] = mapped_column(sa.String(64))
    answer: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
