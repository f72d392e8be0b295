"""Restore: switch deposited classes back on for good. The module stays in the vault and always answers.

When a restoration ends, the classes are deposited again at once, because the target never learnt them again.
"""

from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.errors import Problem
from app.deposits import service as deposits
from app.deposits.service import DepositRow
from app.registry import service as registry
from app.second_person import service as second_person
from app.second_person.service import Act, Requester
from app.second_person.service import ApprovalRow as ApprovalRow


class NotRestored(Problem):
    """The deposit is not restored, so there is no restoration to end."""

    status, slug, title = 409, "not-restored", "The deposit is not restored"


def restore(session: Session, actor: Actor, deposit_id: str, reason: str) -> DepositRow | ApprovalRow:
    """Let the classes answer without a withdrawal. Active withdrawals of them continue and end as planned.

    If the model needs a second person, return a request for approval instead.
    Raises `UnknownDeposit`, `NotDeposited`, `ModulePurged`, `Restored`.
    """
    with session.begin():
        model, row = _restorable(session, deposit_id)
        if model.needs_second_person:
            wish = {"deposit": deposit_id}
            return second_person.request_approval(session, actor, model.id, model.name, Act.RESTORE, wish, reason)
        _restore(session, model, row, Requester.of(actor), actor.name, reason)
    return row


def restore_approved(session: Session, actor: Actor, approval_id: str) -> ApprovalRow:
    """Restore what another person asked for. Raises what `restore` and `second_person.approve` do."""
    with session.begin():
        approval = second_person.get(session, approval_id)
        model, row = _restorable(session, approval.wish["deposit"])
        approval = second_person.approve(session, actor, approval_id, Act.RESTORE, model.name)
        approval.result_id = row.id
        _restore(session, model, row, Requester.of(approval), actor.name, approval.reason)
    return approval


def end(session: Session, actor: Actor, deposit_id: str) -> None:
    """Deposit the classes again. Once this returns, only a withdrawal shows them.

    Raises `UnknownDeposit`, `NotRestored`.
    """
    with session.begin():
        model, row = deposits.locked(session, deposit_id)
        if row.restored_at is None:
            raise NotRestored(f"Deposit '{row.id}' is {row.state} and not restored, so there is no restoration to end.")
        deposits.end_restoration(session, actor, model, row)
    registry.await_answers()


def _restorable(session: Session, deposit_id: str) -> tuple[registry.ModelRow, DepositRow]:
    """In the caller's transaction: the locked model and the deposit, after checking that its module exists."""
    model, row = deposits.locked(session, deposit_id)
    deposits.module(session, row)
    deposits.demand_not_restored(row)
    return model, row


def _restore(
    session: Session, model: registry.ModelRow, row: DepositRow, requester: Requester, approved_by: str, reason: str
) -> None:
    deposits.note_restoration(session, row, requester.name, reason)
    registry.bump_generation(session, model.id)
    details = {"classes": deposits.class_names(session, row), **requester.details()}
    audit.record(
        session, approved_by, "deposit.restored", model=model.name, subject=row.id, reason=reason, details=details
    )
