"""Runs on the connection from `migrations.upgrade`, or on `LIRF_DATABASE_URL` for the `alembic` command."""

from typing import Any, Literal

import sqlalchemy as sa
from alembic import context

from app.base.database import Database, UtcDateTime
from app.base.settings import Settings
from migrations.tables import metadata


def render(kind: str, item: Any, autogen_context: Any) -> str | Literal[False]:
    """Write SQLAlchemy's types into migrations, not ours: migrations outlive the code."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def migrate(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, render_item=render)
    with context.begin_transaction():
        context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is not None:
    migrate(connection)
else:
    with Database(Settings().database).engine.begin() as new_connection:
        migrate(new_connection)
