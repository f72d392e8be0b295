"""The rule of two: one person requests an act, another person approves it. Each act's own service applies the rule."""

from collections.abc import Sequence
from dataclasses import dataclass
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

APPROVAL_PERIOD = timedelta(days=7)


class Act(StrEnum):
    DEPOSIT = "deposit"
    REBASE = "rebase"
    WITHDRAW = "withdraw"
    RESTORE = "restore"
    PURGE = "purge"
    POLICY = "policy"
    REMOVE = "remove"
    BASE = "base"


ROLES = {
    Act.DEPOSIT: Role.OPERATOR,
    Act.REBASE: Role.OPERATOR,
    Act.WITHDRAW: Role.CUSTODIAN,
    Act.RESTORE: Role.CUSTODIAN,
    Act.PURGE: Role.ADMINISTRATOR,
    Act.POLICY: Role.ADMINISTRATOR,
    Act.REMOVE: Role.ADMINISTRATOR,
    Act.BASE: Role.ADMINISTRATOR,
}


@dataclass(frozen=True)
class Requester:
    """Who asked for an act, even if somebody else approved it."""

    name: str
    key_id: str

    @classmethod
    def of(cls, asked: Actor | ApprovalRow) -> "Requester":
        if isinstance(asked, Actor):
            return cls(asked.name, asked.key_id)
        return cls(asked.requested_by, asked.requested_key_id)

    def details(self) -> dict[str, str]:
        """For the audit."""
        return {"requested_by": self.name, "requested_by_id": self.key_id}


class ApprovalState(StrEnum):
    WAITING = "waiting"
    APPROVED = "approved"
    REFUSED = "refused"
    EXPIRED = "expired"


class UnknownApproval(Problem):
    """No request for approval has this id. `GET /v1/approvals` lists them."""

    status, slug, title = 404, "unknown-approval", "There is no such request for approval"


class OwnRequest(Problem):
    """The approver counts as the requester's person (`person_id` of a key), or its key is younger than the request.

    Somebody else must approve, for example with a key that was created on the server: `lirf keys create --local`.
    """

    status, slug, title = 403, "own-request", "You cannot approve your own request"


class RequesterGone(Problem):
    """The requester's key was revoked or has expired. Refuse the request, and ask again."""

    status, slug, title = 409, "requester-gone", "The requester's key is no longer valid"


class AlreadyDecided(Problem):
    """The request was approved, was refused, or has expired. If it is still wanted, ask again."""

    status, slug, title = 409, "already-decided", "The request is no longer waiting for approval"


def request_approval(
    session: Session, actor: Actor, model_id: str, model_name: str, act: Act, wish: dict[str, Any], reason: str
) -> ApprovalRow:
    """Store a request for somebody else to approve, in the caller's transaction.

    wish: everything that was requested, as JSON.
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
        expires_at=now() + APPROVAL_PERIOD,
    )
    session.add(row)
    session.flush()
    _record(session, actor, "approval.requested", model_name, row, reason)
    return row


def approve(session: Session, actor: Actor, approval_id: str, act: Act, model_name: str) -> ApprovalRow:
    """Approve a request, once, in the transaction that carries out the act.

    The caller sets `result_id`.
    Raises `UnknownApproval`, `Forbidden`, `OwnRequest`, `AlreadyDecided`, `RequesterGone`.
    """
    row = get(session, approval_id)
    assert row.act == act
    demand_approver(session, actor, row)
    _decide(session, actor, row, ApprovalState.APPROVED, None)
    _record(session, actor, "approval.approved", model_name, row, None)
    return row


def demand_approver(session: Session, actor: Actor, row: ApprovalRow) -> None:
    """Check that the actor may approve the request.

    Raises `Forbidden`, `OwnRequest`, `AlreadyDecided`, `RequesterGone`.
    """
    demand(actor, ROLES[Act(row.act)])
    if row.requested_key_id == actor.key_id:
        raise OwnRequest(f"'{actor.name}' made this request. Somebody else must approve it, with another key.")
    requester = access.person_of(session, row.requested_key_id)
    if requester == actor.person or access.UNKNOWN in (requester, actor.person):
        raise OwnRequest(
            f"'{actor.name}' and '{row.requested_by}' are not two persons: each key counts as the person whose key "
            "created it. Somebody with a key that another person created must approve, for example one that was "
            "created on the server with `lirf keys create NAME --local`."
        )
    if actor.key_created_at and actor.key_created_at > row.requested_at:
        raise OwnRequest(f"Key '{actor.name}' is newer than the request. Approve it with a key that is older.")
    if state(row) != ApprovalState.WAITING:
        raise _already_decided(row)
    if not access.is_valid(session, row.requested_key_id):
        raise RequesterGone(
            "The key that made this request was revoked or has expired. Refuse the request, and send a new one."
        )


def refuse(session: Session, actor: Actor, approval_id: str, model_name: str, reason: str) -> ApprovalRow:
    """Refuse a request. The requester may also cancel it this way.

    Raises `UnknownApproval`, `Forbidden`, `AlreadyDecided`.
    """
    row = get(session, approval_id)
    if row.requested_key_id != actor.key_id:
        demand(actor, ROLES[Act(row.act)])
    _decide(session, actor, row, ApprovalState.REFUSED, reason)
    _record(session, actor, "approval.refused", model_name, row, reason)
    return row


def refuse_waiting(session: Session, actor: Actor, model_id: str, model_name: str, reason: str) -> None:
    """In the caller's transaction: refuse every request for this model that waits."""
    for row in waiting(session, model_id):
        _decide(session, actor, row, ApprovalState.REFUSED, reason)
        _record(session, actor, "approval.refused", model_name, row, reason)


def waiting(session: Session, model_id: str, act: Act | None = None) -> Sequence[ApprovalRow]:
    """A model's requests that wait for a decision. act: only requests for this act."""
    query = sa.select(ApprovalRow).where(
        ApprovalRow.model_id == model_id, ApprovalRow.decision.is_(None), ApprovalRow.expires_at > now()
    )
    return session.scalars(query if act is None else query.where(ApprovalRow.act == act)).all()


def _decide(session: Session, actor: Actor, row: ApprovalRow, decision: ApprovalState, reason: str | None) -> None:
    is_waiting = ApprovalRow.id == row.id, ApprovalRow.decision.is_(None), ApprovalRow.expires_at > now()
    values = {"decision": decision, "decided_at": now(), "decided_by": actor.name, "decided_key_id": actor.key_id}
    values["decision_reason"] = reason
    is_first = changes(session, sa.update(ApprovalRow).where(*is_waiting).values(**values))
    session.refresh(row)
    if not is_first:
        raise _already_decided(row)


def _already_decided(row: ApprovalRow) -> AlreadyDecided:
    by = f" by {row.decided_by}" if row.decided_by else ""
    return AlreadyDecided(f"Request '{row.id}' is {state(row)}{by}. Send a new request if it is still needed.")


def _record(session: Session, actor: Actor, action: str, model: str, row: ApprovalRow, reason: str | None) -> None:
    details = {"act": row.act, "wish": row.wish, **Requester.of(row).details()}
    audit.record(session, actor.name, action, model=model, subject=row.id, reason=reason, details=details)


def state(row: ApprovalRow) -> ApprovalState:
    if row.decision:
        return ApprovalState(row.decision)
    return ApprovalState.EXPIRED if row.expires_at <= now() else ApprovalState.WAITING


def lapsed(session: Session) -> Sequence[ApprovalRow]:
    """Requests that have lapsed, which is not recorded yet."""
    return session.scalars(sa.select(ApprovalRow).where(*_has_lapsed()).limit(1000)).all()


def record_lapse(session: Session, row: ApprovalRow, model_name: str) -> bool:
    """Record that a request has lapsed, so that a clock that goes back does not revive it.

    Returns False if somebody else has recorded it.
    """
    values = {"decision": ApprovalState.EXPIRED, "decided_at": row.expires_at}
    if not changes(session, sa.update(ApprovalRow).where(ApprovalRow.id == row.id, *_has_lapsed()).values(values)):
        return False
    details = {"act": row.act, **Requester.of(row).details()}
    audit.record(session, audit.RECONCILER, "approval.expired", model=model_name, subject=row.id, details=details)
    return True


def _has_lapsed() -> tuple[sa.ColumnElement[bool], ...]:
    return ApprovalRow.decision.is_(None), ApprovalRow.expires_at <= now()


def forget_model(session: Session, model_id: str) -> None:
    """Delete a model's requests, in the transaction that removes the model."""
    session.execute(sa.delete(ApprovalRow).where(ApprovalRow.model_id == model_id))


def get(session: Session, approval_id: str) -> ApprovalRow:
    """The request with this id. Raises `UnknownApproval`."""
    row = session.get(ApprovalRow, approval_id)
    if row is None:
        raise UnknownApproval(f"There is no request for approval '{approval_id[:64]}'. `GET /v1/approvals` lists them.")
    return row


def list_all(
    session: Session, page: PageRequest, model_id: str | None, is_waiting: bool
) -> tuple[Sequence[ApprovalRow], str | None]:
    """Requests, newest first. model_id: only requests for this model. is_waiting: only requests without a decision."""
    query = sa.select(ApprovalRow)
    if model_id:
        query = query.where(ApprovalRow.model_id == model_id)
    if is_waiting:
        query = query.where(ApprovalRow.decision.is_(None), ApprovalRow.expires_at > now())
    return newest_first(session, query, ApprovalRow.id, page)
