"""The engine, sessions and column types, the same for SQLite and PostgreSQL."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from uuid6 import uuid7


class UtcDateTime(sa.TypeDecorator[datetime]):
    """Aware datetimes in UTC on both databases. SQLite alone would drop the time zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        # PostgreSQL answers in the time zone of its session, SQLite without one.
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The base of every table. Constraints have names, so that migrations can change them on both databases."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {datetime: UtcDateTime, dict[str, Any]: sa.JSON, list[str]: sa.JSON}


def now() -> datetime:
    return datetime.now(UTC)


def new_id() -> str:
    """A UUIDv7 (RFC 9562). Ids sort by creation time, and every listing uses that order."""
    return str(uuid7())


# Detect a server that has silently gone: while connecting, while idle, and while it acknowledges no data.
_POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


class Database:
    """One engine. Use `session` for changes and `reading` for reads, which take no lock."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        # Parameters hold wrapped keys and digests, which must not appear in errors and logs.
        if self.url.get_backend_name() == "sqlite":
            self.engine = sa.create_engine(self.url, connect_args={"timeout": 30}, hide_parameters=True)
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self.engine = sa.create_engine(
                self.url,
                connect_args={name: value for name, value in _POSTGRESQL.items() if name not in self.url.query},
                pool_pre_ping=True,
                pool_size=10,
                max_overflow=30,
                pool_timeout=10,
                hide_parameters=True,
            )
        self._writers = sessionmaker(self.engine, expire_on_commit=False)
        reading = self.engine.execution_options(is_reading=True)
        if self.url.get_backend_name() != "sqlite":  # one snapshot for a whole transaction, as on SQLite
            reading = reading.execution_options(isolation_level="REPEATABLE READ")
        self._readers = sessionmaker(reading, expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self._writers() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._readers() as session:
            yield session

    def erase_freed_data(self) -> None:
        """Remove overwritten and deleted data from the database's files, as far as that is possible now.

        SQLite: truncates the write-ahead log (`secure_delete` cleans the main file). PostgreSQL: vacuums dead rows.
        PostgreSQL's own log, and its replicas, hold the data until they are recycled.
        """
        if self.url.get_backend_name() == "sqlite":
            with closing(self.engine.raw_connection()) as connection:  # not in a transaction
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM vault_objects")


def changes(session: Session, statement: sa.Update) -> bool:
    """Execute a guarded update and say whether it changed a row. If two transactions race, the loser gets False."""
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, sa.CursorResult)
    return result.rowcount > 0


def _prepare_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # otherwise sqlite3 begins transactions by itself, and deferred ones
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    is_reading = connection.get_execution_options().get("is_reading", False)
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")
