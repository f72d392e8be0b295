"""Carries out what a second person approves, each act by the service that it belongs to."""

from sqlalchemy.orm import Session

from app.access.service import Actor
from app.base.database import Database
from app.base.settings import Settings
from app.inference.engine import InferenceEngine
from app.purges import service as purges
from app.registry import policies
from app.registry import service as registry
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
    actor: Actor,
    approval_id: str,
) -> ApprovalRow:
    """Raises what `second_person.approve` does, and what the act does."""
    with session.begin():
        wished = second_person.get(session, approval_id)
        second_person.demand_approver(session, actor, wished)
    if wished.act == Act.WITHDRAW:
        engine.prepare(wished.wish["deposits"])
        return withdrawals.open_approved(session, actor, wished.id)
    if wished.act == Act.RESTORE:
        engine.prepare([wished.wish["deposit"]])
        return restorations.restore_approved(session, actor, wished.id)
    try:
        if wished.act == Act.PURGE:
            return purges.purge_approved(session, database, vault, settings, actor, wished.id)
        return policies.change_approved(session, database, vault, actor, wished.id)
    finally:
        engine.drop_shredded()


def refuse(session: Session, actor: Actor, approval_id: str, reason: str) -> ApprovalRow:
    """Raises what `second_person.refuse` does."""
    with session.begin():
        model_id = second_person.get(session, approval_id).model_id
        return second_person.refuse(session, actor, approval_id, registry.by_id(session, model_id).name, reason)
