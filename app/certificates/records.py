"""What the audit says about a deposit and its evidence. A certificate repeats it, and needs rows that agree with it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.audit.service import AuditEventRow
from app.base.errors import Problem
from app.deposits import service as deposits
from app.deposits.service import DepositRow
from app.evidence import service as evidence
from app.evidence.digests import digest
from app.evidence.service import EvidenceRow
from app.registry.service import ModelRow
from app.withdrawals import service as withdrawals

TAMPERED = "Ask an administrator to find out who changed it."


class NotExamined(Problem):
    """No evidence has finished, or a deposited class has no held-out image. Have the deposit examined again."""

    status, slug, title = 409, "not-examined", "No finished evidence to certify"


class EvaluationSetUnfit(Problem):
    """The network from before the deposit did not clearly know a class on these images. Check them, examine again."""

    status, slug, title = 409, "evaluation-set-unfit", "The evaluation set cannot show forgetting"


class EvidenceChanged(Problem):
    """Rows of the database differ from the audit. `lirf audit verify` says which events were changed."""

    status, slug, title = 500, "evidence-changed", "The evidence does not match the audit"


@dataclass(frozen=True)
class Records:
    """Audit events: the deposit's request and end, the examination's end, a purge, the new base since then, and the
    restoration in force.

    `withdrawals`: the ids of the withdrawals that show the classes.
    """

    request: AuditEventRow
    deposit: AuditEventRow
    examination: AuditEventRow
    purge: AuditEventRow | None
    new_base: AuditEventRow | None
    restoration: AuditEventRow | None
    withdrawals: set[str | None]


def of(session: Session, model: ModelRow, deposit: DepositRow, row: EvidenceRow, at: datetime) -> Records:
    """session: reads one snapshot; otherwise an event and its row could differ for an innocent reason.

    Raises `EvidenceChanged` if an event was altered, exists twice, or differs from the rows, and `NotExamined` if the
    evidence comes from an earlier version, which did not record what it examined.
    """
    finish = _only(session, "deposit.finished", deposit.id)
    request = _only(session, "deposit.requested", _job_of(finish) or deposit.id)
    examination = _only(session, "evidence.finished", row.id)
    purge = _only(session, "deposit.purged", deposit.id)
    if request is None or finish is None or examination is None:
        raise EvidenceChanged(f"The audit lacks events of evidence '{row.id}'. `lirf audit verify` checks the audit.")
    if "network" not in examination.details:
        raise NotExamined(
            f"Evidence '{row.id}' comes from an earlier version of the service, which did not record what it examined. "
            "Have the deposit examined again."
        )
    active = _withdrawals(session, model.name, deposit.id, at)
    new_base = _newest(session, "model.new_base", model.id) if purge else None
    if new_base and purge and new_base.number < purge.number:
        new_base = None
    records = Records(request, finish, examination, purge, new_base, _restoration(session, deposit.id), active)
    in_audit, in_rows = _of_audit(records), _of_rows(session, model, deposit, row, at)
    if different := [name for name, value in in_audit.items() if in_rows[name] != value]:
        raise EvidenceChanged(
            f"The database and the audit disagree about evidence '{row.id}': {', '.join(different)}. {TAMPERED}"
        )
    if model.needs_second_person != _needs_second_person(session, model.id):
        raise EvidenceChanged(
            f"The database and the audit disagree about the policy of model '{model.name}'. {TAMPERED}"
        )
    return records


def _of_audit(records: Records) -> dict[str, Any]:
    details = records.examination.details
    return {
        "model": records.request.model,
        "reason": records.request.reason,
        "requester": audit.requester(records.request),
        "classes": sorted(records.deposit.details["classes"]),
        "deposit": details["deposit"],
        "job": _job_of(records.deposit),
        "revisions": (records.deposit.details["revision"], details["revision"]),
        "reference": details["reference"],
        "reference images": (details.get("reference_set") or {}).get("id"),
        "network": details["network"],
        "figures": details["digest"],
        "purge": records.purge is not None,
        "restoration": records.restoration is not None,
        "withdrawals": records.withdrawals,
    }


def _of_rows(session: Session, model: ModelRow, deposit: DepositRow, row: EvidenceRow, at: datetime) -> dict[str, Any]:
    active = withdrawals.deposits_of(session, withdrawals.active(session, model.id, at))
    architecture, classes = model.architecture["name"], len(model.class_names)
    return {
        "model": model.name,
        "reason": deposit.reason,
        "requester": deposit.created_by,
        "classes": sorted(deposits.class_names(session, deposit)),
        "deposit": deposit.id,
        "job": deposit.made_with,
        "revisions": (deposit.revision, row.revision),
        "reference": evidence.reference_name(session, row),
        "reference images": row.reference_set_id,
        "network": {"architecture": architecture, "split": model.split, "classes": classes},
        "figures": digest(row.found or {}),
        "purge": deposit.purged_at is not None,
        "restoration": deposit.restored_at is not None,
        "withdrawals": {withdrawal_id for withdrawal_id, ids in active.items() if deposit.id in ids},
    }


def _job_of(finish: AuditEventRow | None) -> str | None:
    """The deposit whose job made this one, if another did."""
    return finish.details.get("made_with") if finish else None


def _only(session: Session, action: str, subject: str) -> AuditEventRow | None:
    events = _intact(session, action, subject=subject)
    if len(events) > 1:
        raise EvidenceChanged(f"The audit has several events {action} of '{subject}', which happens once. {TAMPERED}")
    return events[0] if events else None


def _restoration(session: Session, deposit_id: str) -> AuditEventRow | None:
    """The restoration that is in force."""
    begun = _newest(session, "deposit.restored", deposit_id)
    ended = _newest(session, "deposit.restoration_ended", deposit_id)
    return begun if begun and (not ended or ended.number < begun.number) else None


def _withdrawals(session: Session, model_name: str, deposit_id: str, at: datetime) -> set[str | None]:
    """The withdrawals that show the deposit's classes."""
    opened, renewed, revoked, expired = (
        _intact(session, f"withdrawal.{what}", model=model_name) for what in ("opened", "renewed", "revoked", "expired")
    )
    ended = {event.subject for event in (*revoked, *expired)}
    until = {event.subject: event.details["expires_at"] for event in opened if deposit_id in event.details["deposits"]}
    until |= {event.subject: event.details["until"] for event in renewed if event.subject in until}
    unexpired = {subject for subject, end in until.items() if end is None or datetime.fromisoformat(end) > at}
    return unexpired - ended


def _needs_second_person(session: Session, model_id: str) -> bool:
    changed = _newest(session, "model.policy_changed", model_id)
    return bool(changed and changed.details["after"]["needs_second_person"])


def _newest(session: Session, action: str, subject: str) -> AuditEventRow | None:
    return max(_intact(session, action, subject=subject), key=lambda event: event.number, default=None)


def _intact(session: Session, action: str, **of: str) -> list[AuditEventRow]:
    events = audit.intact_events(session, action, **of)
    if events is None:
        raise EvidenceChanged(f"An event {action} was changed. `lirf audit verify` checks the audit.")
    return events
