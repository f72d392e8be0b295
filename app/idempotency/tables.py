"""Idempotency keys of requests that were carried out."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, now


class IdempotencyRow(Base):
    """Written together with a request's change. `answer` is sealed and follows a moment later; NULL means it was lost.

    `subject` is the id of the changed thing, as in the audit.
    """

    __tablename__ = "idempotency_keys"

    api_key_id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(255), primary_key=True)
    request_digest: Mapped[str] = mapped_column(sa.String(64))
    subject: Mapped[str | None] = mapped_column(sa.String(64))
    answer: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
