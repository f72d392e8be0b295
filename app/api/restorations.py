from fastapi import APIRouter, Response

from app.api.approvals import AWAITS_APPROVAL, awaiting
from app.api.bodies import LimitedRoute
from app.api.dependencies import Custodian, EngineDep, SessionDep
from app.deposits import service as deposits
from app.registry import service as registry
from app.restorations import service
from app.restorations.schemas import Restoration, RestorationCreate
from app.second_person.schemas import Approval
from app.second_person.service import ApprovalRow

router = APIRouter(prefix="/v1/deposits", tags=["deposits"], route_class=LimitedRoute)


@router.post("/{deposit_id}/restoration", status_code=201, responses=AWAITS_APPROVAL)
def restore_deposit(
    deposit_id: str,
    body: RestorationCreate,
    actor: Custodian,
    session: SessionDep,
    engine: EngineDep,
    response: Response,
) -> Restoration | Approval:
    """Switch the classes of a deposit back on for good: they answer without a withdrawal."""
    engine.prepare([deposit_id])
    row = service.restore(session, actor, deposit_id, body.reason)
    with session.begin():
        model = registry.by_id(session, row.model_id).name
        if isinstance(row, ApprovalRow):
            return awaiting(row, model, response)
        return Restoration(
            deposit=row.id,
            model=model,
            classes=deposits.class_names(session, row),
            restored_at=row.restored_at,
            restored_by=row.restored_by,
            reason=row.restore_reason,
        )


@router.delete("/{deposit_id}/restoration", status_code=204)
def end_restoration(deposit_id: str, actor: Custodian, session: SessionDep) -> None:
    """Deposit the classes again, at once and without training. Once this is answered, only a withdrawal shows them."""
    service.end(session, actor, deposit_id)
