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
from app.base.database import new_id, now
from app.base.paging import PageRequest, newest_first
from app.base.request_id import request_id

RECONCILER = "reconciler"  # an actor that is part of the service
_PENDING = "audit events of this transaction"


def record(
    session: Session,
    actor: str,
    action: str,
    *,
    model: str | None = None,
    subject: str | None = None,
    reason: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Add an event to the caller's transaction, so that there is no change without its event, and vice versa.

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
        }
    )


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


def intact_events(session: Session, action: str, **filters: str) -> list[AuditEventRow] | None:
    """Events with this action, oldest first; None if one of them does not match its digest. Filters as in `export`."""
    rows = list(export(session, action=action, **filters))
    are_intact = all(chain.digest_of(row.number, row.previous, _chain_fields(row)) == row.digest for row in rows)
    return rows if are_intact else None


def requester(event: AuditEventRow) -> str:
    """The actor who asked for the act, even if another one approved it."""
    name: str = event.details.get("requested_by", event.actor)
    return name


def export(session: Session, **filters: Any) -> Iterator[AuditEventRow]:
    """Events, oldest first. Reads 1000 into memory at a time.

    filters: model, action, subject, actor, request_id; since (included) and until (excluded), both datetimes.
    """
    query = _filtered(**filters).order_by(AuditEventRow.number)
    yield from session.scalars(query.execution_options(yield_per=1000))


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


def verify(session: Session, anchor: Head | None = None) -> tuple[Head, list[Fault]]:
    """The head, and the chain's first 100 faults: none if no row was changed, removed, added or reordered."""
    newest = head(session)
    return newest, list(islice(chain.faults(map(_chain_fields, export(session)), newest, anchor), 100))


def _chain_fields(row: AuditEventRow) -> dict[str, Any]:
    names = *chain.FIELDS, "request_id", "number", "previous", "digest"
    return {name: getattr(row, name) for name in names}
