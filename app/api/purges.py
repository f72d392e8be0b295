from dataclasses import asdict

from fastapi import APIRouter, Response

from app.api.approvals import AWAITS_APPROVAL, awaiting
from app.api.bodies import LimitedRoute
from app.api.dependencies import Administrator, DatabaseDep, EngineDep, SessionDep, SettingsDep, VaultDep
from app.deposits import service as deposits
from app.purges import service
from app.purges.schemas import Purge, PurgeCreate, Rest
from app.registry import service as registry
from app.second_person.schemas import Approval
from app.second_person.service import ApprovalRow

router = APIRouter(prefix="/v1/deposits", tags=["deposits"], route_class=LimitedRoute)


@router.post("/{deposit_id}/purge", responses=AWAITS_APPROVAL)
def purge_deposit(
    deposit_id: str,
    body: PurgeCreate,
    actor: Administrator,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    settings: SettingsDep,
    engine: EngineDep,
    response: Response,
) -> Purge | Approval:
    """Destroy the deposit module for good, and all older networks and modules that know its classes.

    This cannot be undone.
    """
    try:
        purged = service.purge(session, database, vault, settings, actor, deposit_id, body.classes, body.reason)
    finally:
        engine.drop_shredded()
    with session.begin():
        if isinstance(purged, ApprovalRow):
            return awaiting(purged, registry.by_id(session, purged.model_id).name, response)
        row = purged.deposit
        return Purge(
            deposit=row.id,
            model=registry.by_id(session, row.model_id).name,
            classes=deposits.class_names(session, row),
            purged_at=row.purged_at,
            purged_by=row.purged_by,
            reason=row.purge_reason,
            shred_effective_at=purged.shred_effective_at,
            still_in=purged.still_in,
            also_in=purged.also_in,
            scrubbed=purged.scrubbed,
            rest=Rest(**asdict(purged.rest)),
        )
