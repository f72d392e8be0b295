import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.base.database import Database, now
from migrations import upgrade
from migrations.tables import metadata


def test_migrations_create_exactly_the_tables_in_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    upgrade(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_times_are_read_in_utc(database: Database) -> None:
    moment = now()
    with database.engine.begin() as connection:
        table = metadata.tables["audit_events"]
        chained = {"number": 1, "previous": "", "digest": ""}
        row = {"id": "1", "at": moment, "actor": "a", "action": "b", "details": {}, **chained}
        connection.execute(sa.insert(table).values(**row))
        assert connection.scalar(sa.select(table.c.at)) == moment
