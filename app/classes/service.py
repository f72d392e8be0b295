"""The state of every class of a model: the overview that an auditor needs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from app.deposits import service as deposits
from app.deposits.service import Kind
from app.measurements import service as measurements
from app.registry import service as registry
from app.registry.service import ModelClassRow, ModelRow
from app.withdrawals import service as withdrawals


class ClassState(StrEnum):
    PRESERVED = "preserved"
    DEPOSITING = "depositing"
    DEPOSITED = "deposited"
    WITHDRAWN = "withdrawn"
    RESTORED = "restored"
    PURGED = "purged"


@dataclass(frozen=True)
class ClassReport:
    """A class: its state, since when, by whom and why. Accuracies: percent, on raw logits; None if not measured."""

    index: int
    name: str
    state: ClassState
    since: datetime
    by: str
    reason: str | None
    deposit_id: str | None
    withdrawals: list[str]
    until: datetime | None
    accuracy_original: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    accuracy_recovered: float | None
    measured_at: datetime | None


def report(session: Session, model_name: str) -> list[ClassReport]:
    """All classes, in the order of the model's outputs. Raises `UnknownModel`."""
    model = registry.get(session, model_name)
    pending = _pending(session, model)
    return _reports(session, model, registry.classes(session, model.id), pending)


def count_states(reports: Sequence[ClassReport]) -> dict[ClassState, int]:
    """The number of classes in each state that occurs."""
    return _in_order(Counter(report.state for report in reports))


def state_counts(session: Session, model: ModelRow) -> dict[ClassState, int]:
    """The same as `count_states` of the model's report, but does not read the preserved classes."""
    held = registry.classes(session, model.id, only_deposited=True)
    pending = _pending(session, model)
    counts = Counter(report.state for report in _reports(session, model, held, pending))
    counts[ClassState.DEPOSITING] = len(pending.keys() - {row.class_index for row in held})
    counts[ClassState.PRESERVED] = len(model.class_names) - counts.total()
    return _in_order(counts)


def _pending(session: Session, model: ModelRow) -> dict[int, deposits.DepositRow]:
    """The unfinished deposits that switch a class off. A deposit of single images leaves their classes on."""
    pending = deposits.pending_classes(session, model.id)
    return {index: row for index, row in pending.items() if row.kind == Kind.CLASSES}


def _in_order(counts: Counter[ClassState]) -> dict[ClassState, int]:
    return {state: counts[state] for state in ClassState if counts[state]}


def _reports(
    session: Session, model: ModelRow, rows: Sequence[ModelClassRow], pending: dict[int, deposits.DepositRow]
) -> list[ClassReport]:
    held_by = deposits.of_ids(session, sorted({row.deposit_id for row in rows if row.deposit_id}))
    active_of_deposit: dict[str, list[withdrawals.WithdrawalRow]] = {}
    active_now = withdrawals.active(session, model.id)
    deposits_of = withdrawals.deposits_of(session, active_now)
    for withdrawal in active_now:
        for deposit_id in deposits_of[withdrawal.id]:
            active_of_deposit.setdefault(deposit_id, []).append(withdrawal)
    current = measurements.current(session, held_by.values())
    newest = max(held_by.values(), key=lambda deposit: deposit.id, default=None)

    reports = []
    for row in rows:
        deposit = held_by.get(row.deposit_id) if row.deposit_id else pending.get(row.class_index)
        active = active_of_deposit.get(row.deposit_id, []) if row.deposit_id else []
        measured = deposit if row.deposit_id else newest
        metrics = measured.metrics if measured else None
        figures = current.get(measured.id) if measured else None
        recovered = (figures.alone if row.deposit_id else figures.together) if figures else None
        if deposit and deposit.restored_at:
            assert deposit.restored_by is not None
            assert deposit.restore_reason is not None
            state, since, by = ClassState.RESTORED, deposit.restored_at, deposit.restored_by
            reason = deposit.restore_reason
        elif active:
            state, since, by, reason = (
                ClassState.WITHDRAWN,
                active[0].created_at,
                active[0].created_by,
                active[0].reason,
            )
        elif deposit and deposit.purged_at:
            assert deposit.purged_by is not None
            assert deposit.purge_reason is not None
            state, since, by, reason = ClassState.PURGED, deposit.purged_at, deposit.purged_by, deposit.purge_reason
        elif deposit and row.deposit_id:
            assert deposit.finished_at is not None
            state, since, by, reason = ClassState.DEPOSITED, deposit.finished_at, deposit.created_by, deposit.reason
        elif deposit:
            state, since, by, reason = ClassState.DEPOSITING, deposit.created_at, deposit.created_by, deposit.reason
        else:
            state, since, by, reason = ClassState.PRESERVED, model.created_at, model.created_by, None
        reports.append(
            ClassReport(
                index=row.class_index,
                name=row.name,
                state=state,
                since=since,
                by=by,
                reason=reason,
                deposit_id=deposit.id if deposit else None,
                withdrawals=[withdrawal.id for withdrawal in active],
                until=_last_end(active),
                accuracy_original=figures.original.get(row.name) if figures and figures.original else None,
                accuracy_before=_accuracy(metrics and metrics["before"], row.name),
                accuracy_after=_accuracy(figures.target if figures else metrics and metrics["target"], row.name),
                accuracy_recovered=_accuracy(recovered if figures else metrics and metrics["recover"], row.name),
                measured_at=figures.measured_at if figures else None,
            )
        )
    return reports


def _last_end(active: list[withdrawals.WithdrawalRow]) -> datetime | None:
    """When the last of the withdrawals ends; None if one never ends, or if there are none."""
    ends = [withdrawal.expires_at for withdrawal in active]
    return None if None in ends else max((end for end in ends if end), default=None)


def _accuracy(figures: dict[str, Any] | None, name: str) -> float | None:
    accuracy: float | None = figures["by_class"].get(name) if figures else None
    return accuracy
