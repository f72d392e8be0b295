"""The installation's signing key."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, now


class SigningKeyRow(Base):
    """The only row, with `number` 1. The private key lies in the vault; the public key follows from it."""

    __tablename__ = "signing_keys"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    object_id: Mapped[str] = mapped_column(sa.ForeignKey("vault_objects.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
