"""Keeps an anchor file up to date, and raises an alarm if the audit does not continue the file's newest anchor."""

import logging
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.audit import anchors, service
from app.audit.anchors import NotAnchors
from app.audit.chain import BEGINNING, Head
from app.audit.service import RECONCILER, ChainBroken
from app.audit.tables import AuditAnchorRow
from app.base.database import Database

log = logging.getLogger(__name__)


class AnchorsLost(Exception):
    """The file lacks an anchor that the reconciler wrote to it."""


def anchor(database: Database, path: Path) -> None:
    """Append the newest event to the file, if it continues the chain of the file's newest anchor.

    Otherwise the file stays as it is, and there is an alarm until this succeeds again: an error in the log in each
    round, `alarm`, and an event when it begins and when it ends.
    """
    try:
        head = _append(database, path)
    except (ChainBroken, NotAnchors, AnchorsLost, OSError) as error:
        reason = error.detail if isinstance(error, ChainBroken) else str(error)
        log.error("The audit is not anchored any more. %s", reason)
        _note(database, None, reason)
    else:
        _note(database, head, None)


def alarm(session: Session) -> str | None:
    """Why the audit is not anchored any more; None if all is well, or if there is no anchor file."""
    return session.scalar(sa.select(AuditAnchorRow.alarm))


def _append(database: Database, path: Path) -> Head:
    if not path.exists():
        _demand(None, _last_anchor(database), path)  # before the file is created
    with anchors.locked(path) as file:
        newest = file.newest()
        _demand(newest, _last_anchor(database), path)
        head = service.continued(database, newest or BEGINNING)
        file.append(head)
        return head


def _demand(newest: Head | None, last: Head, path: Path) -> None:
    """Raise `AnchorsLost` if the file ends before the last anchor that was written to it."""
    if (newest or BEGINNING).number < last.number:
        end = f"ends with event {newest.number}" if newest else "is empty or missing"
        raise AnchorsLost(
            f"The anchor file '{path}' {end}, but event {last.number} was anchored in it. Restore the file. If it is a "
            f"new one, run `lirf audit verify` with the old one, then `lirf audit anchor` with the new one."
        )


def _last_anchor(database: Database) -> Head:
    with database.reading() as session:
        row = session.scalar(sa.select(AuditAnchorRow))
        return Head(row.number, row.digest) if row else BEGINNING


def _note(database: Database, head: Head | None, reason: str | None) -> None:
    """Remember the anchor, and the alarm or that there is none. Writes only what is new."""
    with database.reading() as session:
        row = session.scalar(sa.select(AuditAnchorRow))
        if row and row.alarm == reason and (head is None or head.number <= row.number):
            return
    with database.session() as session, session.begin():
        row = session.scalar(sa.select(AuditAnchorRow).with_for_update())
        if row is None:
            row = AuditAnchorRow(id=1, number=BEGINNING.number, digest=BEGINNING.digest)
            session.add(row)
        if head and head.number > row.number:
            row.number, row.digest = head.number, head.digest
        if row.alarm != reason:
            row.alarm = reason
            action = "audit.alarm_raised" if reason else "audit.alarm_ended"
            service.record(session, RECONCILER, action, reason=reason)
