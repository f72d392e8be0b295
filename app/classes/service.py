"""The state of every class of a model: the page that an auditor wants."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from app.deposits import service as deposits
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
    """A class, what it is now, since when, by whom and why; accuracy in percent on raw logits where it was measured."""

    index: int
    name: str
    state: ClassState
    since: datetime
    by: str
    reason: str | None
    deposit_id: str | None
    withdrawals: list[str]
    until: datetime | None
    accuracy_before: float | None
    accuracy_after: float | None
    accuracy_recovered: float | None


def report(session: Session, model_name: str) -> list[ClassReport]:
    """Every class in the order of the outputs. Raises `UnknownModel`."""
    model = registry.get(session, model_name)
    pending = deposits.pending_classes(session, model.id)
    return _told(session, model, registry.classes(session, model.id), pending)


def counted(reports: Sequence[ClassReport]) -> dict[ClassState, int]:
    """How many of them are in which state, where there are any."""
    return _in_order(Counter(one.state for one in reports))


def counts(session: Session, model: ModelRow) -> dict[ClassState, int]:
    """What `counted` says of the model's report, without reading the preserved classes."""
    held = registry.classes(session, model.id, only_deposited=True)
    pending = deposits.pending_classes(session, model.id)
    found = Counter(one.state for one in _told(session, model, held, pending))
    found[ClassState.DEPOSITING] = len(pending.keys() - {row.class_index for row in held})
    found[ClassState.PRESERVED] = len(model.class_names) - found.total()
    return _in_order(found)


def _in_order(found: Counter[ClassState]) -> dict[ClassState, int]:
    return {state: found[state] for state in ClassState if found[state]}


def _told(
    session: Session, model: ModelRow, rows: Sequence[ModelClassRow], pending: dict[int, deposits.DepositRow]
) -> list[ClassReport]:
    held_by = deposits.of_ids(session, sorted({row.deposit_id for row in rows if row.deposit_id}))
    lent: dict[str, list[withdrawals.WithdrawalRow]] = {}
    active_now = withdrawals.active(session, model.id)
    deposits_of = withdrawals.deposits_of(session, active_now)
    for withdrawal in active_now:
        for deposit_id in deposits_of[withdrawal.id]:
            lent.setdefault(deposit_id, []).append(withdrawal)
    newest = max(held_by.values(), key=lambda deposit: deposit.id, default=None)

    reports = []
    for row in rows:
        deposit = held_by.get(row.deposit_id) if row.deposit_id else pending.get(row.class_index)
        active = lent.get(row.deposit_id, []) if row.deposit_id else []
        measured = deposit if row.deposit_id else newest
        metrics = measured.metrics if measured else None
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
                accuracy_before=_accuracy(metrics, "original", row.name),
                accuracy_after=_accuracy(metrics, "target", row.name),
                accuracy_recovered=_accuracy(metrics, "recover", row.name),
            )
        )
    return reports


def _last_end(active: list[withdrawals.WithdrawalRow]) -> datetime | None:
    """When the last of the withdrawals ends; None where one has no end, or there is none."""
    ends = [withdrawal.expires_at for withdrawal in active]
    return None if None in ends else max((end for end in ends if end), default=None)


def _accuracy(metrics: dict[str, Any] | None, network: str, name: str) -> float | None:
    accuracy: float | None = metrics[network]["by_class"].get(name) if metrics else None
    return accuracy
