"""Timelines: what happened to the classes of a model, or to one deposit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.base.paging import PageRequest
from app.deposits.service import DepositRow
from app.evidence import service as evidence
from app.rebases import service as rebases
from app.registry.service import ModelRow
from app.withdrawals import service as withdrawals
from app.withdrawals.service import WithdrawalRow, WithdrawalState

RowT = TypeVar("RowT")
NEWEST = PageRequest(limit=50)  # of each kind of event


@dataclass(frozen=True)
class Entry:
    """One line of a timeline."""

    at: datetime
    what: str
    by: str | None
    reason: str | None
    link: str | None = None


@dataclass
class Timeline:
    """The newest events of each kind. `is_whole` is False if older ones are missing."""

    entries: list[Entry]
    is_whole: bool = True

    def newest(self, listing: tuple[Sequence[RowT], str | None]) -> Sequence[RowT]:
        """The rows of a listing's first page. If there are more pages, the timeline is not whole."""
        rows, following = listing
        self.is_whole = self.is_whole and following is None
        return rows

    def restorations(self, session: Session, **of: str) -> dict[str, list[Entry]]:
        """Restorations and their ends by deposit, from the audit: a deposit's row knows only the one in force."""
        by_deposit: dict[str, list[Entry]] = {}
        for action, what in (("deposit.restored", "restored"), ("deposit.restoration_ended", "restoration ended")):
            for event in self.newest(audit.list_events(session, NEWEST, action=action, **of)):
                entry = Entry(event.at, what, audit.requester(event), event.reason)
                by_deposit.setdefault(event.subject or "", []).append(entry)
        return by_deposit


def of_model(
    session: Session,
    model: ModelRow,
    deposits: tuple[Sequence[DepositRow], str | None],
    names: dict[str, list[str]],
    recent: tuple[Sequence[WithdrawalRow], str | None],
    deposit_ids: dict[str, list[str]],
) -> Timeline:
    """What happened to the model's classes, newest first, from the first page of its deposits and withdrawals.

    names: the classes of each deposit. deposit_ids: the deposits of each withdrawal.
    """
    timeline = Timeline([Entry(model.created_at, "registered", model.created_by, None)])
    restorations = timeline.restorations(session, model=model.name)
    for row in timeline.newest(deposits):
        label, link = ", ".join(names[row.id]), f"/console/deposits/{row.id}"
        for entry in [*_of_row(row), *restorations.get(row.id, [])]:
            timeline.entries.append(Entry(entry.at, f"{label}: {entry.what}", entry.by, entry.reason, link))
    for rebase in timeline.newest(rebases.list_of_model(session, model.name, NEWEST)):
        timeline.entries.append(Entry(rebase.created_at, "rebase requested", rebase.created_by, rebase.reason))
        if rebase.finished_at:
            timeline.entries.append(Entry(rebase.finished_at, f"rebase {rebase.state}", None, rebase.failure))
    for withdrawal in timeline.newest(recent):
        label = ", ".join(name for deposit_id in deposit_ids[withdrawal.id] for name in names[deposit_id])
        for entry in _of_withdrawal(withdrawal):
            timeline.entries.append(Entry(entry.at, f"{label}: {entry.what}", entry.by, entry.reason))
    timeline.entries.sort(key=lambda entry: entry.at, reverse=True)
    return timeline


def of_deposit(session: Session, row: DepositRow) -> Timeline:
    """What happened to one deposit, with its examinations and certificates, oldest first."""
    timeline = Timeline([*_of_row(row)])
    timeline.entries += timeline.restorations(session, subject=row.id).get(row.id, [])
    for withdrawal in timeline.newest(withdrawals.of_deposit(session, row.id, NEWEST)):
        timeline.entries += _of_withdrawal(withdrawal)
    for rebase in rebases.of_deposit(session, row):
        assert rebase.finished_at
        timeline.entries.append(Entry(rebase.finished_at, "module made anew by a rebase", None, rebase.reason))
    for examination in timeline.newest(evidence.list_of_deposit(session, row.id, NEWEST)):
        timeline.entries.append(Entry(examination.created_at, "evidence requested", examination.created_by, None))
        if examination.finished_at:
            what = f"evidence {examination.state}"
            by = _canceller(session, examination.id) if examination.state == evidence.State.CANCELLED else None
            timeline.entries.append(Entry(examination.finished_at, what, by, examination.failure))
        issued = audit.list_events(session, NEWEST, action="certificate.issued", subject=examination.id)
        for event in timeline.newest(issued):
            what = f"certificate issued ({event.details['format'].upper()})"
            timeline.entries.append(Entry(event.at, what, event.actor, None))
    timeline.entries.sort(key=lambda entry: entry.at)
    return timeline


def _canceller(session: Session, evidence_id: str) -> str | None:
    """Who cancelled an examination; its row does not say."""
    events, _ = audit.list_events(session, NEWEST, action="evidence.cancelled", subject=evidence_id)
    return events[0].actor if events else None


def _of_row(row: DepositRow) -> Iterator[Entry]:
    yield Entry(row.created_at, "deposit requested", row.created_by, row.reason)
    if row.finished_at:
        state = "deposited" if row.state == "purged" else row.state
        yield Entry(row.finished_at, state, None, row.failure)
    if row.purged_at:
        yield Entry(row.purged_at, "purged", row.purged_by, row.purge_reason)


def _of_withdrawal(row: WithdrawalRow) -> Iterator[Entry]:
    yield Entry(row.created_at, f"withdrawn for {row.holder}", row.created_by, row.reason)
    if (state := withdrawals.state(row)) != WithdrawalState.ACTIVE:
        has_expired = state == WithdrawalState.EXPIRED  # the reconciler records this some time later
        ended, by = (row.expires_at, None) if has_expired else (row.ended_at, row.ended_by)
        assert ended is not None
        yield Entry(ended, f"withdrawal {state}", by, None)
