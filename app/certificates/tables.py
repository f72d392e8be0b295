"""The installation's signing key."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, now


class SigningKeyRow(Base):
    """The one of `number` 1; the private key is in the vault, as all else that is secret."""

    __tablename__ = "signing_keys"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    public_key: Mapped[str] = mapped_column(sa.String(64))  # 32 bytes, hexadecimal
    object_id: Mapped[str] = mapped_column(sa.ForeignKey("vault_objects.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
