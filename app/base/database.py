"""The engine, sessions and column types, the same for SQLite and PostgreSQL."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
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


def stamp(at: datetime | None) -> str | None:
    """A time as every answer, event and export has it: RFC 3339 in UTC, with Z."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z") if at else None


def new_id() -> str:
    """A UUIDv7 (RFC 9562). Ids sort by creation time, and every listing uses that order."""
    return str(uuid7())


SQLITE_SECONDS = 30  # how long a transaction waits for another one that writes
LOCK_NOT_AVAILABLE = "55P03"

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
            self.engine = sa.create_engine(
                self.url, connect_args={"timeout": SQLITE_SECONDS}, pool_size=10, max_overflow=30, hide_parameters=True
            )
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

    def logs_beyond_reach(self) -> list[str]:
        """What of the server holds what was deleted until now, and cannot be erased from here. SQLite: nothing."""
        if self.url.get_backend_name() == "sqlite":
            return []
        with self.engine.connect() as connection:
            position = connection.scalar(sa.text("SELECT CAST(pg_current_wal_lsn() AS text)"))
        text = (
            f"PostgreSQL's write-ahead log up to {position}, its archive and its replicas, until the server overwrites "
            "them. `lirf vault rotate-key`, then `lirf vault drop-old-keys`, make these copies worthless at once."
        )
        return [text]

    def erase_freed_data(self, wait_seconds: float) -> str | None:
        """Remove overwritten and deleted keys from the database's files. Returns what is in the way after this time.

        SQLite: truncates the write-ahead log (`secure_delete` cleans the main file). PostgreSQL: rewrites the table,
        because a plain VACUUM leaves the bytes of dead rows in their pages. Its own log, and its replicas, hold the
        data until they are recycled.
        """
        deadline = time.monotonic() + wait_seconds
        is_sqlite = self.url.get_backend_name() == "sqlite"
        outside = {"is_outside_transactions": True} if is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        with self.engine.connect().execution_options(**outside) as connection:
            horizon = None if is_sqlite else connection.scalar(_HORIZON)
            while True:
                obstacle = _truncate_log(connection) if is_sqlite else _rewrite_keys(connection, horizon)
                if obstacle is None or time.monotonic() > deadline:
                    return obstacle
                time.sleep(0.2)


def _truncate_log(connection: sa.Connection) -> str | None:
    # While it waits for readers, nobody can write, so it must not wait for long.
    connection.exec_driver_sql("PRAGMA busy_timeout = 100")
    try:
        is_blocked = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
    except sa.exc.OperationalError:  # another connection writes
        is_blocked = True
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {SQLITE_SECONDS * 1000}")
    if not is_blocked:
        return None
    return (
        "The database's log (the file ending in -wal) still has the keys, because another connection reads a snapshot "
        "from before, such as a backup."
    )


# What was deleted before is seen by no snapshot that is taken after all earlier transactions have ended,
# those of other databases too: VACUUM counts them in its own snapshot, and so does everybody.
_HORIZON = sa.text("SELECT CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text)")
_ALL_ENDED = sa.text("SELECT pg_snapshot_xmin(pg_current_snapshot()) >= CAST(CAST(:horizon AS text) AS xid8)")
_OLDER = sa.text(
    """WITH deletion AS (SELECT age(CAST(CAST(CAST(:horizon AS text) AS xid8) AS xid)) AS age)
       SELECT 'session ' || pid || coalesce(' (' || nullif(application_name, '') || ')', '')
       FROM pg_stat_activity, deletion WHERE pid <> pg_backend_pid() AND (age(backend_xid) > deletion.age
       OR age(backend_xmin) > deletion.age AND (datname = current_database() OR datname IS NULL))
       UNION ALL SELECT 'replication slot ' || slot_name FROM pg_replication_slots, deletion
       WHERE age(xmin) > deletion.age
       UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts, deletion
       WHERE age(transaction) > deletion.age"""
)


def _rewrite_keys(connection: sa.Connection, horizon: str | None) -> str | None:
    have_ended = connection.scalar(_ALL_ENDED, {"horizon": horizon})  # first: from then on, all new snapshots are later
    older = connection.scalars(_OLDER, {"horizon": horizon}).all()
    if older or not have_ended:
        who = ", ".join(older[:5]) or "a transaction"
        return f"PostgreSQL still has the keys in dead rows, because of a snapshot from before: {who}."
    connection.exec_driver_sql("SET lock_timeout = '500ms'")  # others wait behind it
    try:
        connection.exec_driver_sql("VACUUM FULL vault_objects")
    except sa.exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        return "PostgreSQL still has the keys in dead rows, because another session uses the table vault_objects."
    finally:
        connection.exec_driver_sql("RESET lock_timeout")
    return None


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
    options = connection.get_execution_options()
    if not options.get("is_outside_transactions"):
        connection.exec_driver_sql("BEGIN" if options.get("is_reading") else "BEGIN IMMEDIATE")
