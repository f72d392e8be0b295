"""The rule of two: what one person asks for, another one approves. Which acts need it, their own services say."""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access import service as access
from app.access.service import Actor, Role, demand
from app.audit import service as audit
from app.base.database import changes, new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.second_person.tables import ApprovalRow as ApprovalRow

WAITS = timedelta(days=7)


class Act(StrEnum):
    WITHDRAW = "withdraw"
    RESTORE = "restore"
    PURGE = "purge"
    POLICY = "policy"


ROLES = {
    Act.WITHDRAW: Role.CUSTODIAN,
    Act.RESTORE: Role.CUSTODIAN,
    Act.PURGE: Role.ADMINISTRATOR,
    Act.POLICY: Role.ADMINISTRATOR,
}


class ApprovalState(StrEnum):
    WAITING = "waiting"
    APPROVED = "approved"
    REFUSED = "refused"
    EXPIRED = "expired"


class UnknownApproval(Problem):
    status, slug, title = 404, "unknown-approval", "There is no such request for approval"


class OwnRequest(Problem):
    status, slug, title = 403, "own-request", "Nobody approves their own request"


class RequesterGone(Problem):
    status, slug, title = 409, "requester-gone", "Who asked for it may not ask any more"


class AlreadyDecided(Problem):
    status, slug, title = 409, "already-decided", "The request waits no longer"


def ask(
    session: Session, actor: Actor, model_id: str, model_name: str, act: Act, wish: dict[str, Any], reason: str
) -> ApprovalRow:
    """In the caller's transaction: leaves the wish for somebody else to approve.

    wish: JSON of all that was asked for.
    """
    row = ApprovalRow(
        id=new_id(),
        model_id=model_id,
        act=act,
        wish=wish,
        reason=reason,
        requested_at=now(),
        requested_by=actor.name,
        requested_key_id=actor.key_id,
        expires_at=now() + WAITS,
    )
    session.add(row)
    session.flush()
    _record(session, actor, "approval.requested", model_name, row, reason)
    return row


def approve(session: Session, actor: Actor, approval_id: str, act: Act, model_name: str) -> ApprovalRow:
    """In the transaction that carries the act out: only one that is the second person's own, and only once.

    The caller sets `result_id`. Raises `UnknownApproval`, `Forbidden`, `OwnRequest`, `AlreadyDecided`.
    """
    row = get(session, approval_id)
    assert row.act == act
    demand_approver(session, actor, row)
    _decide(session, actor, row, ApprovalState.APPROVED, None)
    _record(session, actor, "approval.approved", model_name, row, None)
    return row


def demand_approver(session: Session, actor: Actor, row: ApprovalRow) -> None:
    """Raises `Forbidden`, `OwnRequest`, `AlreadyDecided`, `RequesterGone`."""
    demand(actor, ROLES[Act(row.act)])
    if row.requested_key_id == actor.key_id:
        raise OwnRequest(f"'{actor.name}' asked for this itself; somebody else approves it, with another key.")
    if actor.key_created_at and actor.key_created_at > row.requested_at:
        raise OwnRequest(f"key '{actor.name}' is younger than the request; it takes a key that was there before.")
    if state(row) != ApprovalState.WAITING:
        raise _decided(row)
    if not access.is_valid(session, row.requested_key_id):
        raise RequesterGone("the key that asked for this is revoked or has ended; refuse it, and ask anew.")


def refuse(session: Session, actor: Actor, approval_id: str, model_name: str, reason: str) -> ApprovalRow:
    """Ends a request; whoever made it may take it back so, too.

    Raises `UnknownApproval`, `Forbidden`, `AlreadyDecided`.
    """
    row = get(session, approval_id)
    if row.requested_key_id != actor.key_id:
        demand(actor, ROLES[Act(row.act)])
    _decide(session, actor, row, ApprovalState.REFUSED, reason)
    _record(session, actor, "approval.refused", model_name, row, reason)
    return row


def _decide(session: Session, actor: Actor, row: ApprovalRow, decision: ApprovalState, reason: str | None) -> None:
    waits = ApprovalRow.id == row.id, ApprovalRow.decision.is_(None), ApprovalRow.expires_at > now()
    decided = sa.update(ApprovalRow).where(*waits)
    values = {"decision": decision, "decided_at": now(), "decided_by": actor.name, "decision_reason": reason}
    won = changes(session, decided.values(**values))
    session.refresh(row)
    if not won:
        raise _decided(row)


def _decided(row: ApprovalRow) -> AlreadyDecided:
    by = f" by {row.decided_by}" if row.decided_by else ""
    return AlreadyDecided(f"request '{row.id}' is {state(row)}{by}; ask anew where it is still wanted.")


def _record(session: Session, actor: Actor, action: str, model: str, row: ApprovalRow, reason: str | None) -> None:
    details = {"act": row.act, "wish": row.wish, "requested_by": row.requested_by}
    audit.record(session, actor.name, action, model=model, subject=row.id, reason=reason, details=details)


def state(row: ApprovalRow) -> ApprovalState:
    if row.decision:
        return ApprovalState(row.decision)
    return ApprovalState.EXPIRED if row.expires_at <= now() else ApprovalState.WAITING


def forget_model(session: Session, model_id: str) -> None:
    """In the transaction that removes the model."""
    session.execute(sa.delete(ApprovalRow).where(ApprovalRow.model_id == model_id))


def get(session: Session, approval_id: str) -> ApprovalRow:
    """Raises `UnknownApproval`."""
    row = session.get(ApprovalRow, approval_id)
    if row is None:
        raise UnknownApproval(f"there is no request '{approval_id[:64]}' for approval; `GET /v1/approvals` lists them.")
    return row


def list_all(
    session: Session, page: PageRequest, model_id: str | None, is_waiting: bool
) -> tuple[Sequence[ApprovalRow], str | None]:
    """Newest first; of one model, and those that wait alone, where it is asked for."""
    query = sa.select(ApprovalRow)
    if model_id:
        query = query.where(ApprovalRow.model_id == model_id)
    if is_waiting:
        query = query.where(ApprovalRow.decision.is_(None), ApprovalRow.expires_at > now())
    return newest_first(session, query, ApprovalRow.id, page)
