"""What happened to the classes of a model, or to one deposit: the lines of a timeline."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.base.paging import PageRequest
from app.deposits.service import DepositRow
from app.evidence import service as evidence
from app.registry.service import ModelRow
from app.withdrawals import service as withdrawals
from app.withdrawals.service import WithdrawalRow, WithdrawalState

RowT = TypeVar("RowT")
NEWEST = PageRequest(limit=50)  # of each kind of happening


@dataclass(frozen=True)
class Happening:
    """One line of a timeline."""

    at: datetime
    what: str
    by: str | None
    reason: str | None
    link: str | None = None


@dataclass
class Timeline:
    """What happened; of each kind of happening the newest alone, so that older ones may be missing."""

    happenings: list[Happening]
    is_whole: bool = True

    def newest(self, listing: tuple[Sequence[RowT], str | None]) -> Sequence[RowT]:
        """The rows of a listing's first page; where there are more of them, the timeline is not whole."""
        rows, following = listing
        self.is_whole = self.is_whole and following is None
        return rows

    def restorations(self, session: Session, **of: str) -> dict[str, list[Happening]]:
        """By deposit, and when they were ended: the row of a deposit knows the last one alone, while it holds."""
        found: dict[str, list[Happening]] = {}
        for action, what in (("deposit.restored", "restored"), ("deposit.restoration_ended", "restoration ended")):
            for event in self.newest(audit.list_events(session, NEWEST, action=action, **of)):
                happening = Happening(event.at, what, audit.requester(event), event.reason)
                found.setdefault(event.subject or "", []).append(happening)
        return found


def of_model(
    session: Session,
    model: ModelRow,
    of_it: tuple[Sequence[DepositRow], str | None],
    names: dict[str, list[str]],
    lent: tuple[Sequence[WithdrawalRow], str | None],
    lends: dict[str, list[str]],
) -> Timeline:
    """What happened to the model's classes, newest first; of the first page of its deposits and of its withdrawals.

    names: of the classes of each deposit. lends: the deposits that each withdrawal lends.
    """
    told = Timeline([Happening(model.created_at, "registered", model.created_by, None)])
    restorations = told.restorations(session, model=model.name)
    for row in told.newest(of_it):
        label, link = ", ".join(names[row.id]), f"/console/deposits/{row.id}"
        for one in [*_of_row(row), *restorations.get(row.id, [])]:
            told.happenings.append(Happening(one.at, f"{label}: {one.what}", one.by, one.reason, link))
    for withdrawal in told.newest(lent):
        label = ", ".join(name for one in lends[withdrawal.id] for name in names[one])
        for one in _of_withdrawal(withdrawal):
            told.happenings.append(Happening(one.at, f"{label}: {one.what}", one.by, one.reason))
    told.happenings.sort(key=lambda one: one.at, reverse=True)
    return told


def of_deposit(session: Session, row: DepositRow) -> Timeline:
    """What was done with one deposit, and what was found and certified of it, oldest first."""
    told = Timeline([*_of_row(row)])
    told.happenings += told.restorations(session, subject=row.id).get(row.id, [])
    for withdrawal in told.newest(withdrawals.of_deposit(session, row.id, NEWEST)):
        told.happenings += _of_withdrawal(withdrawal)
    for examination in told.newest(evidence.list_of_deposit(session, row.id, NEWEST)):
        told.happenings.append(Happening(examination.created_at, "evidence requested", examination.created_by, None))
        if examination.finished_at:
            what = f"evidence {examination.state}"
            by = _canceller(session, examination.id) if examination.state == evidence.State.CANCELLED else None
            told.happenings.append(Happening(examination.finished_at, what, by, examination.failure))
        issued = audit.list_events(session, NEWEST, action="certificate.issued", subject=examination.id)
        for event in told.newest(issued):
            what = f"certificate issued ({event.details['format'].upper()})"
            told.happenings.append(Happening(event.at, what, event.actor, None))
    told.happenings.sort(key=lambda one: one.at)
    return told


def _canceller(session: Session, evidence_id: str) -> str | None:
    """Its row does not know."""
    events, _ = audit.list_events(session, NEWEST, action="evidence.cancelled", subject=evidence_id)
    return events[0].actor if events else None


def _of_row(row: DepositRow) -> Iterator[Happening]:
    yield Happening(row.created_at, "deposit requested", row.created_by, row.reason)
    if row.finished_at:
        state = "deposited" if row.state == "purged" else row.state
        yield Happening(row.finished_at, state, None, row.failure)
    if row.purged_at:
        yield Happening(row.purged_at, "purged", row.purged_by, row.purge_reason)


def _of_withdrawal(row: WithdrawalRow) -> Iterator[Happening]:
    yield Happening(row.created_at, f"withdrawn for {row.holder}", row.created_by, row.reason)
    if (state := withdrawals.state(row)) != WithdrawalState.ACTIVE:
        has_expired = state == WithdrawalState.EXPIRED  # which somebody notes some time after
        ended, by = (row.expires_at, None) if has_expired else (row.ended_at, row.ended_by)
        assert ended is not None
        yield Happening(ended, f"withdrawal {state}", by, None)
