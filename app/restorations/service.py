"""Restore: switch deposited classes back on for good. The module stays in the vault and always answers; ended, the
classes are deposited again at once, for the target never learnt them back.
"""

from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.errors import Problem
from app.deposits import service as deposits
from app.deposits.service import DepositRow
from app.registry import service as registry
from app.second_person import service as second_person
from app.second_person.service import Act
from app.second_person.service import ApprovalRow as ApprovalRow


class NotRestored(Problem):
    status, slug, title = 409, "not-restored", "The deposit is not restored"


def restore(session: Session, actor: Actor, deposit_id: str, reason: str) -> DepositRow | ApprovalRow:
    """From now on the classes answer without a withdrawal. Those that lend them go on, and end as they would.

    Where the model demands a second person, a request for approval.
    Raises `UnknownDeposit`, `NotDeposited`, `ModulePurged`, `Restored`.
    """
    with session.begin():
        model, row = _restorable(session, deposit_id)
        if model.needs_second_person:
            wish = {"deposit": deposit_id}
            return second_person.request_approval(session, actor, model.id, model.name, Act.RESTORE, wish, reason)
        _restore(session, model, row, actor.name, actor.name, reason)
    return row


def restore_approved(session: Session, actor: Actor, approval_id: str) -> ApprovalRow:
    """Restores what somebody else asked for. Raises what `restore` and `second_person.approve` do."""
    with session.begin():
        approval = second_person.get(session, approval_id)
        model, row = _restorable(session, approval.wish["deposit"])
        approval = second_person.approve(session, actor, approval_id, Act.RESTORE, model.name)
        approval.result_id = row.id
        _restore(session, model, row, approval.requested_by, actor.name, approval.reason)
    return approval


def end(session: Session, actor: Actor, deposit_id: str) -> None:
    """The classes are deposited again: after this has returned, no answer shows them, but by a withdrawal.

    Raises `UnknownDeposit`, `NotRestored`.
    """
    with session.begin():
        model, row = deposits.locked(session, deposit_id)
        if row.restored_at is None:
            raise NotRestored(f"deposit '{row.id}' is {row.state} and not restored; there is nothing to end.")
        deposits.note_restoration(session, row, None, None)
        registry.bump_generation(session, model.id)
        details = {"classes": deposits.class_names(session, row)}
        audit.record(
            session, actor.name, "deposit.restoration_ended", model=model.name, subject=row.id, details=details
        )


def _restorable(session: Session, deposit_id: str) -> tuple[registry.ModelRow, DepositRow]:
    """In the caller's transaction: the model, locked, and the deposit, whose module is there."""
    model, row = deposits.locked(session, deposit_id)
    deposits.module(session, row)
    deposits.demand_not_restored(row)
    return model, row


def _restore(
    session: Session, model: registry.ModelRow, row: DepositRow, requested_by: str, approved_by: str, reason: str
) -> None:
    deposits.note_restoration(session, row, requested_by, reason)
    registry.bump_generation(session, model.id)
    details = {"classes": deposits.class_names(session, row), "requested_by": requested_by}
    audit.record(
        session, approved_by, "deposit.restored", model=model.name, subject=row.id, reason=reason, details=details
    )
