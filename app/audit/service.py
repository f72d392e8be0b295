"""The audit: one event for each change, written in the transaction of the change and chained to the previous event."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.audit import chain
from app.audit.chain import Fault, Head
from app.audit.tables import AuditEventRow as AuditEventRow
from app.audit.tables import AuditHeadRow
from app.base.caller import caller_id
from app.base.database import Database, new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.base.request_id import request_id

RECONCILER = "reconciler"  # an actor that is part of the service
# Ids of actors that are no keys and no users. No key has such a name.
SERVICE = {RECONCILER: RECONCILER, "worker": "worker", "local administrator": "local"}
EVENTS_READ = 1000  # in one transaction
_PENDING = "audit events of this transaction"


class ChainBroken(Problem):
    """The newest event does not continue the anchor's chain. `lirf audit verify --anchor FILE` lists the faults."""

    status, slug, title = 409, "chain-broken", "The audit does not continue the anchor"


def record(
    session: Session,
    actor: str,
    action: str,
    *,
    actor_id: str | None = None,
    model: str | None = None,
    subject: str | None = None,
    reason: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Add an event to the caller's transaction, so that there is no change without its event, and vice versa.

    actor: a name, which is a label. actor_id: default: that of the request's caller, or of the part of the service.
    `action` is `<thing>.<what happened>`, `subject` the id of the thing. The events join the chain in the transaction's
    last statement, just before the commit. So the lock on the chain is short, and no other lock is awaited under it.
    """
    session.info.setdefault(_PENDING, []).append(
        {
            "id": new_id(),
            "at": now(),
            "actor": actor,
            "action": action,
            "model": model,
            "subject": subject,
            "reason": reason,
            "details": details or {},
            "request_id": request_id.get(),
            "actor_id": actor_id or caller_id.get() or SERVICE.get(actor),
        }
    )


def record_read(database: Database, actor: str, action: str, **about: Any) -> None:
    """Add the event of a sensitive read, in a transaction of its own. Call it before anything of it is shown.

    about: as in `record`.
    """
    with database.session() as session, session.begin():
        record(session, actor, action, **about)


def pending_subjects(session: Session) -> list[str | None]:
    """The subjects of the events in the caller's transaction so far. Empty if it has changed nothing."""
    return [event["subject"] for event in session.info.get(_PENDING, [])]


@event.listens_for(Session, "before_commit")
def _append_to_chain(session: Session) -> None:
    if session.in_nested_transaction():
        return
    pending = session.info.pop(_PENDING, [])
    if not pending:
        return
    session.flush()
    head = session.execute(sa.select(AuditHeadRow.number, AuditHeadRow.digest).with_for_update()).one()
    number, digest = head.number, head.digest
    for values in pending:
        number, previous = number + 1, digest
        digest = chain.digest_of(number, previous, values)
        session.add(AuditEventRow(**values, number=number, previous=previous, digest=digest))
    session.execute(sa.update(AuditHeadRow).values(number=number, digest=digest))


@event.listens_for(Session, "after_soft_rollback")
def _drop_pending(session: Session, transaction: Any) -> None:
    if not transaction.nested:
        session.info.pop(_PENDING, None)


def list_events(session: Session, page: PageRequest, **filters: Any) -> tuple[Sequence[AuditEventRow], str | None]:
    """Events, newest first. Filters as in `export`."""
    return newest_first(session, _filtered(**filters), AuditEventRow.id, page)


def intact_events(session: Session, action: str, **filters: Any) -> list[AuditEventRow] | None:
    """Events with this action, oldest first; None if one of them does not match its digest. Filters as in `export`."""
    rows = session.scalars(_filtered(action=action, **filters).order_by(AuditEventRow.number)).all()
    are_intact = all(chain.digest_of(row.number, row.previous, _chain_fields(row)) == row.digest for row in rows)
    return list(rows) if are_intact else None


def requester(event: AuditEventRow) -> str:
    """The name of the actor who asked for the act, even if another one approved it."""
    name: str = event.details.get("requested_by", event.actor)
    return name


def identified_requester(event: AuditEventRow) -> str:
    """The same with the id, which alone says who it is."""
    if (name := event.details.get("requested_by")) is None:
        return label(event.actor, event.actor_id)
    if (actor_id := event.details.get("requested_by_id")) is None and name == event.actor:
        actor_id = event.actor_id
    return label(name, actor_id)


def label(name: str, actor_id: str | None) -> str:
    """The name, and the id if there is one: events of earlier versions have none."""
    return f"{name} ({actor_id})" if actor_id and actor_id != name else name


def export(database: Database, **filters: Any) -> Iterator[AuditEventRow]:
    """Events, oldest first, up to the newest at the time of the call.

    filters: model, action, subject, actor, actor_id, request_id; since (included) and until (excluded), both datetimes.
    """
    with database.reading() as session:
        newest = head(session)
    yield from _pages(database, _filtered(**filters), 0, newest.number)


def _pages(database: Database, query: Any, after: int, last: int) -> Iterator[AuditEventRow]:
    """The query's events after one number and up to another, `EVENTS_READ` in each transaction.

    A longer transaction would keep what others erase meanwhile in the database's log, for as long as a client reads.
    """
    is_page = AuditEventRow.number > sa.bindparam("after"), AuditEventRow.number <= last
    query = query.where(*is_page).order_by(AuditEventRow.number).limit(EVENTS_READ)
    while True:
        with database.reading() as session:
            rows = session.scalars(query, {"after": after}).all()
        yield from rows
        if len(rows) < EVENTS_READ:
            return
        after = rows[-1].number


def _filtered(since: datetime | None = None, until: datetime | None = None, **equal: str | None) -> Any:
    query = sa.select(AuditEventRow)
    for name, value in equal.items():
        if value is not None:
            query = query.where(getattr(AuditEventRow, name) == value)
    if since is not None:
        query = query.where(AuditEventRow.at >= since)
    return query if until is None else query.where(AuditEventRow.at < until)


def head(session: Session) -> Head:
    """The newest event, which can be stored outside the database as an anchor."""
    row = session.execute(sa.select(AuditHeadRow.number, AuditHeadRow.digest)).one()
    return Head(row.number, row.digest)


def verify(database: Database, anchors: Sequence[Head] = ()) -> tuple[Head, list[Fault]]:
    """The head, and the chain's first 100 faults: none if no row was changed, removed, added or reordered.

    anchors: earlier heads that were stored outside the database.
    """
    newest = _head_in(database)
    return newest, list(islice(_faults(database, newest, anchors, chain.BEGINNING), 100))


def continued(database: Database, anchor: Head) -> Head:
    """The newest event, after checking that an unbroken chain leads from the anchor to it. Raises `ChainBroken`."""
    newest = _head_in(database)
    with database.reading() as session:
        row = session.scalar(_filtered().where(AuditEventRow.number == anchor.number))
    if (row is None and anchor.number > 0) or newest.number < anchor.number:
        fault: Fault | None = Fault(anchor.number, "the event was anchored, and is missing")
    else:
        last = Head(row.number - 1, row.previous) if row else chain.BEGINNING
        fault = next(_faults(database, newest, [anchor], last), None)
    if fault:
        raise ChainBroken(
            f"Event {fault.number}: {fault.what}. Somebody changed the audit after event {anchor.number} was anchored. "
            "Keep the anchor file, and run `lirf audit verify --anchor FILE`."
        )
    return newest


def _head_in(database: Database) -> Head:
    with database.reading() as session:
        return head(session)


def _faults(database: Database, newest: Head, anchors: Sequence[Head], last: Head) -> Iterator[Fault]:
    events = _pages(database, _filtered(), last.number, newest.number)
    yield from chain.faults(map(_chain_fields, events), newest, anchors, last)
    with database.reading() as session:
        beyond = session.scalar(sa.select(sa.func.max(AuditEventRow.number)))
        current = head(session)
    if beyond is not None and beyond > current.number:
        yield Fault(current.number + 1, f"the event comes after the head, which is event {current.number}")


def _chain_fields(row: AuditEventRow) -> dict[str, Any]:
    names = *chain.FIELDS, *chain.OPTIONAL, "number", "previous", "digest"
    return {name: getattr(row, name) for name in names}
