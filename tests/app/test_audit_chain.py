"""The audit is append-only, and anyone who changes it behind the service's back is detected."""

import csv
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from app.access.service import LOCAL_ADMINISTRATOR
from app.audit import chain, service
from app.audit.chain import Head
from app.audit.tables import AuditEventRow, AuditHeadRow
from app.base.database import Database, UtcDateTime
from lirf_client import LirfError
from tests.app.conftest import Service
from tests.doses import dose

EVENTS = 60
CHANGES = ["actor", "reason", "details", "digest", "remove", "swap", "add"]
NUMBER = AuditEventRow.__table__.c.number


@pytest.fixture
def audited(database: Database) -> Database:
    write(database, range(EVENTS))
    return database


def write(database: Database, numbers: range) -> None:
    with database.session() as session, session.begin():
        for number in numbers:
            service.record(session, "somebody", "thing.done", subject=str(number), reason="täglich", details={"n": 0.1})


def faults(database: Database, anchor: Head | None = None) -> list[tuple[int, str]]:
    return [(fault.number, fault.what) for fault in service.verify(database, [anchor] if anchor else [])[1]]


def head(database: Database) -> Head:
    with database.reading() as session:
        return service.head(session)


def tamper(database: Database, change: Callable[..., None], *arguments: Any) -> None:
    with database.engine.begin() as connection, without_triggers(connection):
        change(connection, *arguments)


@contextmanager
def without_triggers(connection: sa.Connection) -> Iterator[None]:
    """Disable the triggers, as a database administrator could."""
    table = "audit_events"
    if connection.dialect.name == "sqlite":
        triggers = connection.scalars(sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger'")).all()
        for act in ("update", "delete"):
            connection.execute(sa.text(f"DROP TRIGGER {table}_refuse_{act}"))
        yield
        for statement in triggers:
            connection.execute(sa.text(statement))
    else:
        connection.execute(sa.text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
        yield
        connection.execute(sa.text(f"ALTER TABLE {table} ENABLE TRIGGER ALL"))


@pytest.mark.parametrize("statement", ["UPDATE audit_events SET actor = 'me'", "DELETE FROM audit_events"])
def test_the_database_refuses_to_change_or_delete_events(audited: Database, statement: str) -> None:
    with (
        pytest.raises(DatabaseError, match="audit events are only ever added"),
        audited.engine.begin() as connection,
    ):
        connection.execute(sa.text(statement))
    assert faults(audited) == []


def test_an_untouched_chain_has_no_fault_and_numbers_without_gaps(audited: Database) -> None:
    assert faults(audited) == []
    assert faults(audited, head(audited)) == []
    assert [row.number for row in service.export(audited)] == list(range(1, EVENTS + 1))


@pytest.mark.attack
@pytest.mark.timeout(3600)
def test_any_changed_removed_added_or_swapped_row_is_detected(audited: Database) -> None:
    """Each change is undone after the check."""
    chance, kinds = random.Random(0), Counter[str]()
    write(audited, range(EVENTS, dose(EVENTS, 10_000)))
    last = head(audited)
    for _ in range(dose(50, 500)):
        row, other = chance.sample(range(2, last.number), 2)
        with audited.engine.connect() as connection:
            originals = connection.execute(sa.select(AuditEventRow.__table__).where(NUMBER.in_((row, other)))).all()
        kind = chance.choice(CHANGES)
        tamper(audited, lambda connection, *of: change(connection, last, *of), kind, row, other)
        assert faults(audited), kind
        tamper(audited, undo, last, originals)
        kinds[kind] += 1
    assert len(kinds) == len(CHANGES)
    assert faults(audited) == []


def undo(connection: sa.Connection, last: Head, originals: Sequence[sa.Row[Any]]) -> None:
    table = AuditEventRow.__table__
    numbers = [row.number for row in originals]
    connection.execute(sa.delete(table).where(sa.or_(NUMBER.in_(numbers), last.number < NUMBER)))
    connection.execute(sa.insert(table), [dict(row._mapping) for row in originals])


def change(connection: sa.Connection, last: Head, kind: str, row: int, other: int) -> None:
    """Make one change of this kind."""
    table = AuditEventRow.__table__
    at = NUMBER
    changes: dict[str, Callable[[sa.Connection], object]] = {
        "actor": lambda c: c.execute(sa.update(table).where(at == row).values(actor="somebody else")),
        "reason": lambda c: c.execute(sa.update(table).where(at == row).values(reason=None)),
        "details": lambda c: c.execute(sa.update(table).where(at == row).values(details={"n": 0.2})),
        "digest": lambda c: c.execute(sa.update(table).where(at == row).values(digest="0" * 64)),
        "remove": lambda c: c.execute(sa.delete(table).where(at == row)),
        "swap": lambda c: [
            c.execute(sa.update(table).where(at == old).values(number=new))
            for old, new in ((row, 100_000), (other, row), (100_000, other))
        ],
        "add": lambda c: c.execute(
            sa.insert(table).values(
                id="forged",
                number=last.number + 1,
                actor="a",
                action="b",
                details={},
                previous=last.digest,
                digest="0" * 64,
            )
        ),
    }
    changes[kind](connection)


def test_only_an_anchor_detects_a_truncated_chain_with_a_changed_head(audited: Database) -> None:
    anchor = head(audited)
    table = AuditEventRow.__table__

    def cut(connection: sa.Connection) -> None:
        connection.execute(sa.delete(table).where(table.c.number > EVENTS - 5))
        last = connection.scalar(sa.select(table.c.digest).where(table.c.number == EVENTS - 5))
        connection.execute(sa.update(AuditHeadRow).values(number=EVENTS - 5, digest=last))

    tamper(audited, cut)
    assert faults(audited) == []
    assert faults(audited, anchor) == [
        (EVENTS - 4, f"the events after {EVENTS - 5} are missing; the anchor is event {EVENTS}")
    ]


def test_only_an_anchor_detects_a_rewritten_chain(audited: Database) -> None:
    anchor = head(audited)
    table = AuditEventRow.__table__

    def rewrite(connection: sa.Connection) -> None:
        last = Head(0, chain.GENESIS)
        for row in connection.execute(sa.select(table).order_by(table.c.number)).mappings().all():
            event = dict(row) | ({"actor": "somebody else"} if row["number"] == 7 else {})
            digest = chain.digest_of(row["number"], last.digest, event)
            changed = {"actor": event["actor"], "previous": last.digest, "digest": digest}
            connection.execute(sa.update(table).where(table.c.number == row["number"]).values(**changed))
            last = Head(row["number"], digest)
        connection.execute(sa.update(AuditHeadRow).values(number=last.number, digest=last.digest))

    tamper(audited, rewrite)
    assert faults(audited) == []
    assert faults(audited, anchor) == [(EVENTS, "the event differs from the anchored one")]


def test_concurrent_events_form_one_chain(database: Database) -> None:
    def write() -> None:
        for _ in range(10):
            with database.session() as session, session.begin():
                service.record(session, "a", "one.done")
                service.record(session, "a", "other.done")

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults(database) == []
    assert head(database).number == 100


def test_a_rollback_leaves_no_event_and_no_gap(database: Database) -> None:
    def fail() -> None:
        with database.session() as session, session.begin():
            service.record(session, "a", "thing.done")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.session() as session:
        with session.begin():
            service.record(session, "a", "thing.done")
            with pytest.raises(ZeroDivisionError), session.begin_nested():
                _ = 1 / 0
        assert head(database).number == 1
    assert faults(database) == []


def test_nothing_happens_if_the_event_cannot_be_written(service_: Service) -> None:
    with service_.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE audit_head RENAME TO audit_head_away"))
    with pytest.raises(LirfError) as caught:
        service_.administrator.create_key("late", [])
    assert caught.value.status in (500, 503)
    with service_.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE audit_head_away RENAME TO audit_head"))
    with service_.database.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM api_keys WHERE name = 'late'")) == 0


@pytest.fixture
def service_(service: Service) -> Service:
    return service


def test_an_auditor_verifies_anchors_and_exports_over_http(service_: Service) -> None:
    service_.register()
    service_.register("others", seed=1)
    anchor = service_.auditor.audit_head()
    assert service_.auditor.verify_audit(anchor) == {"head": anchor, "is_intact": True, "faults": [], "alarm": None}
    report = service_.auditor.verify_audit({"number": anchor["number"], "digest": "0" * 64})
    assert (report["is_intact"], [fault["number"] for fault in report["faults"]]) == (False, [anchor["number"]])

    events = [json.loads(line) for line in service_.auditor.audit_export(model="birds")]
    assert [event["action"] for event in events] == ["model.registered", "model.weights_stored"]
    whole = [json.loads(line) for line in service_.auditor.audit_export()]
    assert [event["number"] for event in whole] == list(range(1, anchor["number"] + 3))  # and the two exports
    later = list(service_.auditor.audit_export(since=whole[-1]["at"]))
    assert [json.loads(line) for line in later][:1] == whole[-1:]

    with pytest.raises(LirfError) as caught:
        service_.operator.verify_audit()
    assert caught.value.status == 403
    with pytest.raises(LirfError, match="send both `number` and `digest` of an anchor, or neither"):
        service_.auditor.verify_audit({"number": 1})  # type: ignore[typeddict-item]


def test_no_cell_of_an_export_is_a_formula_to_a_spreadsheet(service_: Service) -> None:
    with service_.database.session() as session, session.begin():
        service.record(session, LOCAL_ADMINISTRATOR.name, "thing.done", reason='=HYPERLINK("http://evil")')
    lines = list(service_.auditor.audit_export("csv", action="thing.done"))
    [event] = csv.DictReader(lines)
    assert event["reason"] == '\'=HYPERLINK("http://evil")'


def test_times_are_utc_in_every_time_zone_of_the_database_session() -> None:
    """PostgreSQL answers in its session's zone, but an event's digest covers the time in UTC."""
    written = datetime(2026, 11, 26, 12, tzinfo=UTC)
    for read in (written, written.astimezone(timezone(timedelta(hours=2))), written.replace(tzinfo=None)):
        time_read = UtcDateTime().process_result_value(read, sa.create_engine("sqlite://").dialect)
        assert time_read is not None
        assert time_read.isoformat() == "2026-11-26T12:00:00+00:00"
