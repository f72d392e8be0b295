"""SQLAlchemy for SQLite and PostgreSQL alike: engine, sessions, column types."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session, sessionmaker
from uuid6 import uuid7


class UtcDateTime(sa.TypeDecorator[datetime]):
    """Aware datetimes in UTC on both databases; SQLite would drop the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)  # PostgreSQL's session has a zone


class Base(DeclarativeBase):
    """Rows of every domain. Constraints have names, so that migrations can change them on both databases."""

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
    """A UUIDv7 (RFC 9562): ids sort by the time they were made, which is the order of every listing."""
    return str(uuid7())


# A server that went away without a word is noticed: when connecting, when idle, and when it takes nothing more.
_POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


class Database:
    """One engine. `session` is for changes, `reading` for reads that need no lock."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        # Parameters hold wrapped keys and digests: errors, and so logs, go without them.
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
        self._changing = sessionmaker(self.engine, expire_on_commit=False)
        reading = self.engine.execution_options(is_reading=True)
        if self.url.get_backend_name() != "sqlite":  # one snapshot for all that is read, as SQLite gives anyway
            reading = reading.execution_options(isolation_level="REPEATABLE READ")
        self._reading = sessionmaker(reading, expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self._changing() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._reading() as session:
            yield session

    def forget_freed(self) -> None:
        """What was overwritten or deleted leaves the database's files, as far as the database can do it now.

        SQLite's log still has it until it is truncated (`secure_delete` cleans the file itself); PostgreSQL's dead rows
        until they are vacuumed. Its log and replicas keep it for as long as they are kept.
        """
        if self.url.get_backend_name() == "sqlite":
            with closing(self.engine.raw_connection()) as connection:  # outside of a transaction
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as outside:
                outside.exec_driver_sql("VACUUM vault_objects")


def count_by_state(session: Session, state: InstrumentedAttribute[str], states: Iterable[str]) -> dict[str, int]:
    """How many rows are in each of the states."""
    found = dict(session.execute(sa.select(state, sa.func.count()).group_by(state)).all())
    return {one: found.get(one, 0) for one in states}


def changes(session: Session, statement: sa.Update) -> bool:
    """Executes a guarded update; whether its guard held. Of two that try, the one that is told False has lost."""
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, sa.CursorResult)
    return result.rowcount > 0


def _prepare_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # sqlite3 would begin by itself, and deferred
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    is_reading = connection.get_execution_options().get("is_reading", False)
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")
