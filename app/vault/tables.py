"""Objects in the vault."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, new_id, now


class ErasureRow(Base):
    """A shredded object that may still have traces: its key in the database's files, or its bytes in the store.

    `obstacle` says what was in the way at the last try.
    """

    __tablename__ = "vault_erasures"

    object_id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(64), index=True)
    model_id: Mapped[str] = mapped_column(sa.String(36), index=True)
    requested_at: Mapped[datetime] = mapped_column(default=now)
    obstacle: Mapped[str | None] = mapped_column(sa.Text)


class VaultObjectRow(Base):
    """An encrypted object. Shredding removes its wrapped key; without it, the object is noise."""

    __tablename__ = "vault_objects"

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(sa.String(64), unique=True)  # SHA-256 of the ciphertext
    kind: Mapped[str] = mapped_column(sa.String(20))
    model_id: Mapped[str] = mapped_column(sa.String(36), index=True)
    subject_id: Mapped[str] = mapped_column(sa.String(36))
    plaintext_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    ciphertext_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    wrapped_key: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    master_key_version: Mapped[int] = mapped_column(sa.BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)
    shredded_at: Mapped[datetime | None]
