"""The audit: one event for each change, written in the transaction of the change."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.audit.tables import AuditEventRow
from app.database import new_id, now
from app.paging import PageRequest, newest_first

RECONCILER = "reconciler"  # an actor of the service itself


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

    `action` is `<thing>.<what happened>`, `subject` the id of the thing.
    """
    session.add(
        AuditEventRow(
            id=new_id(),
            at=now(),
            actor=actor,
            action=action,
            model=model,
            subject=subject,
            reason=reason,
            details=details or {},
        )
    )


def list_events(
    session: Session,
    page: PageRequest,
    *,
    model: str | None = None,
    action: str | None = None,
    subject: str | None = None,
) -> tuple[Sequence[AuditEventRow], str | None]:
    """Events, newest first, of one model, action or subject where given."""
    query = sa.select(AuditEventRow)
    for column, value in (
        (AuditEventRow.model, model),
        (AuditEventRow.action, action),
        (AuditEventRow.subject, subject),
    ):
        if value is not None:
            query = query.where(column == value)
    return newest_first(session, query, AuditEventRow.id, page)
