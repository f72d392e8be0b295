from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from app.api.approvals import AWAITS_APPROVAL, awaiting
from app.api.bodies import LimitedRoute
from app.api.dependencies import AnyKey, Custodian, EngineDep, ReadingDep, SessionDep
from app.base.paging import Page
from app.deposits import service as deposits
from app.registry import service as registry
from app.second_person.schemas import Approval
from app.second_person.service import ApprovalRow
from app.withdrawals import service
from app.withdrawals.schemas import Withdrawal, WithdrawalCreate, WithdrawalRenewal, WithdrawalRequest, WithdrawalToken
from app.withdrawals.service import Visibility, WithdrawalRow

router = APIRouter(prefix="/v1/withdrawals", tags=["withdrawals"], route_class=LimitedRoute)


def _withdrawals(session: Session, rows: Sequence[WithdrawalRow]) -> list[Withdrawal]:
    ids_of = service.deposits_of(session, rows)
    rows_of = deposits.of_ids(session, sorted({deposit_id for ids in ids_of.values() for deposit_id in ids}))
    names = deposits.names_of(session, rows_of.values())
    models = registry.by_ids(session, (row.model_id for row in rows))
    return [
        Withdrawal(
            id=row.id,
            model=models[row.model_id].name,
            deposits=ids_of[row.id],
            classes=[name for deposit_id in ids_of[row.id] for name in names[deposit_id]],
            state=service.state(row),
            holder=row.holder,
            visibility=Visibility(row.visibility),
            reason=row.reason,
            created_at=row.created_at,
            created_by=row.created_by,
            expires_at=row.expires_at,
            ended_at=row.ended_at,
            ended_by=row.ended_by,
        )
        for row in rows
    ]


def _withdrawal(session: Session, row: WithdrawalRow) -> Withdrawal:
    [withdrawal] = _withdrawals(session, [row])
    return withdrawal


@router.post("", status_code=201, responses=AWAITS_APPROVAL)
def open_withdrawal(
    body: WithdrawalCreate, actor: Custodian, session: SessionDep, engine: EngineDep, response: Response
) -> Withdrawal | Approval:
    """Make deposited classes answer again until the withdrawal ends. The recover network is assembled first."""
    engine.prepare(body.deposits)
    row = service.open(session, actor, body)
    with session.begin():
        if isinstance(row, ApprovalRow):
            return awaiting(row, registry.by_id(session, row.model_id).name, response)
        response.headers["Location"] = f"/v1/withdrawals/{row.id}"
        return _withdrawal(session, row)


@router.get("")
def list_withdrawals(
    actor: AnyKey, session: ReadingDep, query: Annotated[WithdrawalRequest, Query()]
) -> Page[Withdrawal]:
    """List all withdrawals, including ended ones, newest first."""
    rows, cursor = service.list_all(session, query, query.model)
    return Page(items=_withdrawals(session, rows), next_cursor=cursor)


@router.get("/{withdrawal_id}")
def get_withdrawal(withdrawal_id: str, actor: AnyKey, session: ReadingDep) -> Withdrawal:
    """One withdrawal."""
    return _withdrawal(session, service.get(session, withdrawal_id))


@router.post("/{withdrawal_id}/renewal")
def renew_withdrawal(withdrawal_id: str, body: WithdrawalRenewal, actor: Custodian, session: SessionDep) -> Withdrawal:
    """Give a withdrawal another end. Without one it lasts until it is revoked."""
    row = service.renew(session, actor, withdrawal_id, body)
    with session.begin():
        return _withdrawal(session, row)


@router.post("/{withdrawal_id}/token", status_code=201)
def issue_token(withdrawal_id: str, actor: Custodian, session: SessionDep) -> WithdrawalToken:
    """Issue a token for a held withdrawal. It is shown only once, and replaces an earlier token at once.

    Only requests that send the token see the withdrawal's classes (`Withdrawal-Token: lirfw_...`; separate several
    tokens by commas).
    """
    return WithdrawalToken(withdrawal=withdrawal_id, token=service.issue_token(session, actor, withdrawal_id))


@router.delete("/{withdrawal_id}")
def revoke_withdrawal(withdrawal_id: str, actor: Custodian, session: SessionDep) -> Withdrawal:
    """End a withdrawal. Once this is answered, no inference answer shows its classes."""
    row = service.revoke(session, actor, withdrawal_id)
    with session.begin():
        return _withdrawal(session, row)
