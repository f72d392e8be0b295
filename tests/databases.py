"""Databases of SQLite and, if TEST_DATABASE_URL is set, of PostgreSQL."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

POSTGRESQL = os.environ.get("TEST_DATABASE_URL")
KINDS = ["sqlite", "postgresql"] if POSTGRESQL else ["sqlite"]


def create_database(kind: str, folder: Path, template: str | None = None) -> str:
    """The URL of a new database: empty, or a copy of the one at that URL, which nobody uses."""
    if kind == "sqlite":
        file = folder / "test.sqlite3"
        if template:
            shutil.copyfile(sa.make_url(template).database or "", file)
        return f"sqlite:///{file}"
    assert POSTGRESQL
    name = f"lirf_test_{uuid.uuid4().hex[:12]}"
    of = f" TEMPLATE {sa.make_url(template).database}" if template else ""
    # No test cuts the server's power, so commits do not wait for its disk, which may take 8 ms.
    _tell_postgresql(f"CREATE DATABASE {name}{of}", f"ALTER DATABASE {name} SET synchronous_commit = off")
    return sa.make_url(POSTGRESQL).set(database=name).render_as_string(hide_password=False)


def drop_database(url: str) -> None:
    """SQLite's goes with its folder."""
    if not url.startswith("sqlite"):
        name = sa.make_url(url).database
        # Without FORCE, which is refused while PostgreSQL's own autovacuum is there; plain DROP ends that by itself.
        ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND usename = user"
        _tell_postgresql(ended, f"DROP DATABASE {name}")


@contextmanager
def own_database(kind: str, folder: Path, template: str | None = None) -> Iterator[str]:
    """As `create_database`; it is dropped at the end."""
    url = create_database(kind, folder, template)
    try:
        yield url
    finally:
        drop_database(url)


def _tell_postgresql(*statements: str) -> None:
    assert POSTGRESQL
    server = sa.create_engine(POSTGRESQL, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
