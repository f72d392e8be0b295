"""API keys, and sessions of the console."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, new_id, now


class ConsoleSessionRow(Base):
    """Somebody who is signed in to the console. The row goes when they sign out or the session ends.

    `id_digest`: SHA-256 of the session's random id, which only the browser has.
    """

    __tablename__ = "console_sessions"

    id_digest: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(sa.String(36))
    ends_at: Mapped[datetime] = mapped_column(index=True)


class ApiKeyRow(Base):
    """An API key, stored as the SHA-256 of its 256 random bits. `prefix` identifies the key and is not secret.

    `normal_name` makes names unique: no other key has it until the key has ended. `models`: the patterns of the names
    of the models that the key is bound to; None if it is not bound. `made_by_id`: the key or identity that made it,
    'local', or 'unknown' for some keys of earlier versions. `person_id`: whom it counts as (decision 19).
    `ended_at`: when its expiry was noticed; a clock that goes back does not revive it.
    `last_used_at` is exact to `LAST_USED_STEP`.
    """

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(sa.String(100))
    normal_name: Mapped[str | None] = mapped_column(sa.String(200), unique=True)
    prefix: Mapped[str] = mapped_column(sa.String(16), unique=True)
    secret_digest: Mapped[str] = mapped_column(sa.String(64))
    roles: Mapped[list[str]]
    models: Mapped[list[str] | None] = mapped_column(sa.JSON(none_as_null=True))
    made_by_id: Mapped[str] = mapped_column(sa.String(36))
    person_id: Mapped[str] = mapped_column(sa.String(36))
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
