from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.base.database import Database, now
from migrations import upgrade
from migrations.tables import metadata
from tests.databases import KINDS, own_database


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


VALUES = {str: "x", int: 1, bool: False, datetime: datetime(2026, 11, 28, tzinfo=UTC)}


def insert(connection: sa.Connection, table_name: str, /, **values: Any) -> None:
    """Insert a row into a table of an older schema. Columns that need a value and have none get a default."""
    table = sa.Table(table_name, sa.MetaData(), autoload_with=connection)
    needed = [column for column in table.columns if not column.nullable and column.server_default is None]
    filled = {
        column.name: {} if isinstance(column.type, sa.JSON) else VALUES[column.type.python_type] for column in needed
    }
    connection.execute(sa.insert(table).values({**filled, **values}))


@pytest.mark.parametrize("kind", KINDS)
def test_upgrade_to_one_job_machine_keeps_checkpoints_and_examinations(kind: str, tmp_path: Path) -> None:
    with own_database(kind, tmp_path) as url:
        database = Database(url)
        upgrade(database, "0016")
        with database.engine.begin() as connection:
            insert(connection, "vault_objects", id="object", kind="checkpoint")
            insert(connection, "models", id="model")
            insert(connection, "datasets", id="images", model_id="model", object_id="object")
            insert(connection, "deposits", id="deposit", model_id="model", dataset_id="images", state="running")
            insert(connection, "deposit_checkpoints", deposit_id="deposit", part="target", object_id="object")
            insert(connection, "evidence", id="evidence", deposit_id="deposit", evaluation_set_id="images")
        upgrade(database)
        with database.engine.connect() as connection:
            checkpoint = connection.execute(sa.text("SELECT job_id, part, object_id FROM job_checkpoints")).one()
            is_cancelled = connection.scalar(sa.select(metadata.tables["evidence"].c.is_cancel_requested))
        database.engine.dispose()
    assert tuple(checkpoint) == ("deposit", "target", "object")
    assert is_cancelled is False


@pytest.mark.parametrize("kind", KINDS)
def test_the_database_keeps_no_statistics_of_wrapped_keys(kind: str, tmp_path: Path) -> None:
    with own_database(kind, tmp_path) as url:
        database = Database(url)
        upgrade(database, "0025")

        def fill(numbers: range) -> None:
            with database.engine.begin() as connection:
                for number in numbers:
                    key = b"wrapped %d" % number
                    insert(connection, "vault_objects", id=str(number), name=str(number), wrapped_key=key)
                connection.execute(sa.text("ANALYZE"))

        fill(range(100))
        found = []
        for numbers in (range(100, 101), range(101, 200)):
            upgrade(database)
            fill(numbers)
            with database.engine.connect() as connection:
                if kind == "sqlite":
                    names = connection.scalars(sa.text("SELECT name FROM sqlite_master")).all()
                    found.append("sqlite_stat4" in names)  # sqlite_stat1 has counts only
                else:
                    query = "SELECT attname FROM pg_stats WHERE tablename = 'vault_objects'"
                    names = connection.scalars(sa.text(query)).all()
                    assert "name" in names
                    found.append("wrapped_key" in names)
        database.engine.dispose()
    assert not any(found)


@pytest.mark.parametrize("kind", KINDS)
def test_upgrade_names_the_network_before_a_deposit_and_bounds_losses(kind: str, tmp_path: Path) -> None:
    def metrics(percent: float) -> dict[str, Any]:
        return {name: {"by_class": {"emu": percent}} for name in ("original", "target", "recover")}

    with own_database(kind, tmp_path) as url:
        database = Database(url)
        upgrade(database, "0019")
        with database.engine.begin() as connection:
            insert(connection, "vault_objects", id="object", kind="images")
            insert(connection, "models", id="model")
            insert(connection, "datasets", id="images", model_id="model", object_id="object")
            for number in (1, 2):
                values = {"revision": number, "metrics": metrics(90 - number), "state": "deposited"}
                insert(connection, "deposits", id=f"d{number}", model_id="model", dataset_id="images", **values)
            insert(connection, "deposits", id="d3", model_id="model", dataset_id="images", state="queued")
        upgrade(database)
        with database.engine.connect() as connection:
            deposits = metadata.tables["deposits"]
            stored = dict(connection.execute(sa.select(deposits.c.id, deposits.c.metrics)).tuples().all())
            models = metadata.tables["models"].c
            bounds = connection.execute(
                sa.select(models.max_preserved_loss, models.max_module_loss, models.max_total_loss)
            ).one()
        database.engine.dispose()
    assert stored["d1"]["original"] == stored["d1"]["before"] == {"by_class": {"emu": 89}}
    assert (stored["d2"]["original"], stored["d2"]["before"]) == (None, {"by_class": {"emu": 88}})
    assert stored["d3"] is None
    assert tuple(bounds) == (5, 5, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_upgrade_finds_who_made_each_key(kind: str, tmp_path: Path) -> None:
    """Keys of earlier versions: the audit has their makers' names only."""
    with own_database(kind, tmp_path) as url:
        database = Database(url)
        upgrade(database, "0020")
        made = [  # name, maker's name
            ("root", "local administrator"),
            ("child", "root"),
            ("grandchild", "child"),
            ("twin", "local administrator"),
            ("Twin", "root"),
            ("twin", "local administrator"),
            ("of a twin", "twin"),
            ("of a user", "oidc:alice"),
            ("local administrator", "root"),
            ("of either", "local administrator"),
        ]
        with database.engine.begin() as connection:
            for number, (name, maker) in enumerate(made):
                common = {"id": f"{number}", "created_at": now()}
                insert(connection, "api_keys", **common, name=name, prefix=f"{number}", roles=[])
                event = {"actor": maker, "action": "key.created", "subject": f"{number}", "number": number + 1}
                insert(connection, "audit_events", id=f"{number}", **event)
            insert(connection, "api_keys", id="x", created_at=now(), name="without event", prefix="x", roles=[])
        upgrade(database)
        keys = metadata.tables["api_keys"]
        with database.engine.connect() as connection:
            columns = keys.c.id, keys.c.made_by_id, keys.c.person_id, keys.c.normal_name
            rows = {row[0]: tuple(row[1:]) for row in connection.execute(sa.select(*columns))}
        database.engine.dispose()
    assert rows == {
        "0": ("local", "0", "root"),
        "1": ("0", "0", "child"),
        "2": ("1", "0", "grandchild"),
        "3": ("local", "3", "twin"),
        "4": ("0", "0", None),  # one of two that look alike
        "5": ("local", "5", None),
        "6": ("unknown", "unknown", "of a twin"),
        "7": ("unknown", "unknown", "of a user"),
        "8": ("0", "0", "local administrator"),
        "9": ("unknown", "unknown", "of either"),
        "x": ("unknown", "unknown", "without event"),
    }
