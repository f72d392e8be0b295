"""The audit: one event for each change, written in the transaction of the change, and chained."""

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

RECONCILER = "reconciler"  # an actor of the service itself
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
    """Adds an event to the caller's transaction: no change without its event, no event without its change.

    `action` is `<thing>.<what happened>`, `subject` the id of the thing. Events get their place in the chain when the
    transaction commits, as its last statement: nothing waits for the chain while it holds a lock that others want.
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


def subjects(session: Session) -> list[str | None]:
    """Those of the events that the caller's transaction has so far; empty where it changes nothing."""
    return [pending["subject"] for pending in session.info.get(_PENDING, [])]


@event.listens_for(Session, "before_commit")
def _chain(session: Session) -> None:
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
def _forget(session: Session, transaction: Any) -> None:
    if not transaction.nested:
        session.info.pop(_PENDING, None)


def list_events(session: Session, page: PageRequest, **filters: Any) -> tuple[Sequence[AuditEventRow], str | None]:
    """Events, newest first; filters as in `export`."""
    return newest_first(session, _filtered(**filters), AuditEventRow.id, page)


def intact(session: Session, action: str, **of: str) -> list[AuditEventRow] | None:
    """Such events, oldest first; None where the digest of one is not that of what it says."""
    found = list(export(session, action=action, **of))
    are_intact = all(chain.digest_of(row.number, row.previous, _covered(row)) == row.digest for row in found)
    return found if are_intact else None


def requester(event: AuditEventRow) -> str:
    """Who asked for it, not who approved it."""
    by: str = event.details.get("requested_by", event.actor)
    return by


def export(session: Session, **filters: Any) -> Iterator[AuditEventRow]:
    """Events, oldest first, a thousand in memory at a time.

    filters: model, action, subject, actor, request_id; since, until (datetimes, the second excluded).
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
    """The newest event, to be written down outside the database."""
    row = session.execute(sa.select(AuditHeadRow.number, AuditHeadRow.digest)).one()
    return Head(row.number, row.digest)


def verify(session: Session, anchor: Head | None = None) -> tuple[Head, list[Fault]]:
    """The head, and the first hundred faults of the chain.

    There is none when no row was changed, removed, added or reordered.
    """
    found = head(session)
    return found, list(islice(chain.faults(map(_covered, export(session)), found, anchor), 100))


def _covered(row: AuditEventRow) -> dict[str, Any]:
    names = *chain.FIELDS, "request_id", "number", "previous", "digest"
    return {name: getattr(row, name) for name in names}
