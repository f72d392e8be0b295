from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from app.api.bodies import LimitedRoute
from app.api.dependencies import (
    AnyKey,
    DatabaseDep,
    Decider,
    DoorbellDep,
    EngineDep,
    ReadingDep,
    SessionDep,
    SettingsDep,
    VaultDep,
)
from app.approvals import service
from app.base.paging import Page
from app.registry import service as registry
from app.second_person import service as second_person
from app.second_person.schemas import Approval, ApprovalRequest, Refusal
from app.second_person.service import ApprovalRow
from app.vault import erasure

AWAITS_APPROVAL: dict[int | str, dict[str, Any]] = {
    202: {"model": Approval, "description": "The model demands a second person, so the request waits for approval."}
}

router = APIRouter(prefix="/v1/approvals", tags=["approvals"], route_class=LimitedRoute)


def awaiting(row: ApprovalRow, model_name: str, response: Response) -> Approval:
    """Turn the answer into a 202 whose `Location` shows the decision."""
    response.status_code = 202
    response.headers["Location"] = f"/v1/approvals/{row.id}"
    return Approval.from_row(row, model_name)


def _approval(session: Session, row: ApprovalRow) -> Approval:
    return Approval.from_row(row, registry.by_id(session, row.model_id).name)


@router.get("")
def list_approvals(actor: AnyKey, session: ReadingDep, query: Annotated[ApprovalRequest, Query()]) -> Page[Approval]:
    """List requests for approval, newest first, including decided ones."""
    model_id = registry.get(session, query.model).id if query.model else None
    rows, cursor = second_person.list_all(session, query, model_id, query.waiting)
    return Page(items=[_approval(session, row) for row in rows], next_cursor=cursor)


@router.get("/{approval_id}")
def get_approval(approval_id: str, actor: AnyKey, session: ReadingDep) -> Approval:
    """Show a request for approval."""
    return _approval(session, second_person.get(session, approval_id))


@router.post("/{approval_id}/approve")
def approve(
    approval_id: str,
    actor: Decider,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    settings: SettingsDep,
    engine: EngineDep,
    doorbell: DoorbellDep,
) -> Approval:
    """Approve and carry out somebody else's request.

    An operator may approve a deposit, a custodian a withdrawal or a restoration, an administrator everything.
    """
    row = service.carry_out(session, database, vault, settings, engine, doorbell, actor, approval_id)
    with session.begin():
        name = registry.by_id(session, row.model_id).name
        return Approval.from_row(row, name, erasure.obstacles(session, row.model_id))


@router.post("/{approval_id}/refuse")
def refuse(approval_id: str, body: Refusal, actor: Decider, session: SessionDep, vault: VaultDep) -> Approval:
    """Refuse a request, which ends it. This also cancels your own request.

    The deposit set of a refused deposit is shredded, unless the request has `keep_dataset`.
    """
    row = service.refuse(session, vault, actor, approval_id, body.reason)
    with session.begin():
        return _approval(session, row)
