"""Carries out what a second person approves. The act's own service does the work."""

from sqlalchemy.orm import Session

from app.access.service import Actor
from app.approvals import images
from app.base.database import Database
from app.base.settings import Settings
from app.deposits import requests as deposit_requests
from app.deposits.jobs import JOBS as DEPOSITS
from app.hardenings import base
from app.inference.engine import InferenceEngine
from app.jobs.doorbell import Doorbell
from app.policies import service as policies
from app.purges import service as purges
from app.rebases import service as rebases
from app.rebases.jobs import JOBS as REBASES
from app.registry import service as registry
from app.removals import service as removals
from app.restorations import service as restorations
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow
from app.vault.service import Vault
from app.withdrawals import service as withdrawals


def carry_out(
    session: Session,
    database: Database,
    vault: Vault,
    settings: Settings,
    engine: InferenceEngine,
    doorbell: Doorbell,
    actor: Actor,
    approval_id: str,
) -> ApprovalRow:
    """Approve a request and carry out its act. Raises the errors of `second_person.approve` and of the act."""
    with session.begin():
        approval = second_person.get(session, approval_id)
        second_person.demand_approver(session, actor, approval)
    if approval.act == Act.DEPOSIT:
        approval = deposit_requests.request_approved(session, actor, approval.id)
        doorbell.ring(DEPOSITS.task, approval.result_id or "")
        return approval
    if approval.act == Act.REBASE:
        approval = rebases.request_approved(session, actor, approval.id)
        doorbell.ring(REBASES.task, approval.result_id or "")
        return approval
    if approval.act == Act.WITHDRAW:
        engine.prepare(approval.wish["deposits"])
        return withdrawals.open_approved(session, actor, approval.id)
    if approval.act == Act.RESTORE:
        engine.prepare([approval.wish["deposit"]])
        return restorations.restore_approved(session, actor, approval.id)
    try:
        if approval.act == Act.PURGE:
            return purges.purge_approved(session, database, vault, settings, actor, approval.id)
        if approval.act == Act.REMOVE:
            return removals.remove_approved(session, database, vault, settings, actor, approval.id)
        if approval.act == Act.BASE:
            return base.make_approved(session, database, vault, settings, actor, approval.id)
        return policies.change_approved(session, database, vault, actor, approval.id)
    finally:
        engine.drop_shredded()


def refuse(session: Session, vault: Vault, actor: Actor, approval_id: str, reason: str) -> ApprovalRow:
    """Refuse a request, and shred the images that only it needed. Raises the errors of `second_person.refuse`."""
    with session.begin():
        model = registry.lock(session, second_person.get(session, approval_id).model_id)
        approval = second_person.refuse(session, actor, approval_id, model.name, reason)
        garbage = images.release(session, actor.name, approval)
    vault.remove(garbage)
    return approval
