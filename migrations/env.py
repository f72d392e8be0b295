"""Runs on the connection that `migrations.upgrade` gives, or on `LIRF_DATABASE_URL` for alembic's own command."""

from typing import Any, Literal

import sqlalchemy as sa
from alembic import context

from app.base.database import Database, UtcDateTime
from app.base.settings import Settings
from migrations.tables import metadata


def render(kind: str, item: Any, autogen_context: Any) -> str | Literal[False]:
    """Migrations outlive the code: they name SQLAlchemy's types, not ours."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def migrate(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, render_item=render)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with Database(Settings().database).engine.begin() as own:
        migrate(own)
