"""Alembic migrations. `lirf migrate` brings a database to the newest schema; `lirf up` does so automatically."""

from pathlib import Path

import alembic.command
import alembic.config

from app.base.database import Database


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the database to a revision of the schema; by default the newest."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)
