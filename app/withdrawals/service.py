"""Withdraw: let deposited classes answer again for a time. Revoke: end that at once."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base import tokens
from app.base.database import changes, new_id, now, stamp
from app.base.errors import Problem
from app.base.expiry import demand_future
from app.base.paging import PageRequest, newest_first
from app.deposits import service as deposits
from app.registry import service as registry
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow, Requester
from app.withdrawals.schemas import WithdrawalCreate, WithdrawalRenewal
from app.withdrawals.tables import Visibility as Visibility
from app.withdrawals.tables import WithdrawalDepositRow
from app.withdrawals.tables import WithdrawalRow as WithdrawalRow
from app.withdrawals.tables import WithdrawalState as WithdrawalState

TOKEN_PREFIX = "lirfw_"  # noqa: S105


class UnknownWithdrawal(Problem):
    """No withdrawal has this id. `GET /v1/withdrawals` lists them."""

    status, slug, title = 404, "unknown-withdrawal", "There is no such withdrawal"


class WithdrawalOfOtherModel(Problem):
    """The withdrawal belongs to another model. Send the request to that model."""

    status, slug, title = 422, "withdrawal-of-other-model", "The withdrawal belongs to another model"


class WithdrawalEnded(Problem):
    """The withdrawal was revoked or has expired. Ask a custodian for a new one."""

    status, slug, title = 410, "withdrawal-ended", "The withdrawal has ended"


class TokenRefused(Problem):
    """A `Withdrawal-Token` is missing, wrong or replaced. Ask its issuer for a new one."""

    status, slug, title = 403, "withdrawal-token-refused", "The withdrawal token is not valid"


class NotHeld(Problem):
    """The withdrawal is public, so it has no token. Only a held withdrawal has one."""

    status, slug, title = 409, "withdrawal-public", "The withdrawal is public and needs no token"


class RenewalNeedsSecondPerson(Problem):
    """A longer withdrawal needs a second person's approval. Ask for a new withdrawal."""

    status, slug, title = 409, "needs-second-person", "The model needs a second person"


class DepositsOfSeveralModels(Problem):
    """The deposits belong to several models. Make one withdrawal for each model."""

    status, slug, title = 422, "several-models", "The deposits belong to different models"


def open(session: Session, actor: Actor, body: WithdrawalCreate) -> WithdrawalRow | ApprovalRow:
    """Let the classes of these deposits answer until the withdrawal ends.

    If the model needs a second person, return a request for approval instead. Raises `UnknownDeposit`, `NotDeposited`,
    `ModulePurged`, `Restored`, `DepositsOfSeveralModels`, `ExpiryPassed`.
    """
    with session.begin():
        model, rows = _lendable(session, body)
        if model.needs_second_person:
            wish = body.model_dump(mode="json")
            return second_person.request_approval(session, actor, model.id, model.name, Act.WITHDRAW, wish, body.reason)
        return _open(session, model, rows, body, Requester.of(actor), None)


def open_approved(session: Session, actor: Actor, approval_id: str) -> ApprovalRow:
    """Open a withdrawal that another person asked for. A duration counts from now.

    Raises what `open` and `second_person.approve` do.
    """
    with session.begin():
        approval = second_person.get(session, approval_id)
        body = WithdrawalCreate.model_validate(approval.wish)
        model, rows = _lendable(session, body)
        approval = second_person.approve(session, actor, approval_id, Act.WITHDRAW, model.name)
        approval.result_id = _open(session, model, rows, body, Requester.of(approval), actor.name).id
    return approval


def _lendable(session: Session, body: WithdrawalCreate) -> tuple[registry.ModelRow, Sequence[deposits.DepositRow]]:
    """In the caller's transaction: the locked model and the deposits, after checking that their modules exist."""
    rows = [deposits.get(session, deposit_id) for deposit_id in body.deposits]
    models = [registry.lock(session, model_id) for model_id in sorted({row.model_id for row in rows})]
    for row in rows:  # the lock is held, so from here on they do not change
        session.refresh(row)
        deposits.module(session, row)
        deposits.demand_not_restored(row)
    if len(models) > 1:
        raise DepositsOfSeveralModels("A withdrawal holds deposits of one model. Make one withdrawal for each model.")
    demand_future(body.end())
    return models[0], rows


def _open(
    session: Session,
    model: registry.ModelRow,
    rows: Sequence[deposits.DepositRow],
    body: WithdrawalCreate,
    requester: Requester,
    approved_by: str | None,
) -> WithdrawalRow:
    expires_at = body.end()
    withdrawal = WithdrawalRow(
        id=new_id(),
        model_id=model.id,
        holder=body.holder,
        visibility=body.visibility,
        reason=body.reason,
        created_at=now(),
        created_by=requester.name,
        expires_at=expires_at,
    )
    session.add(withdrawal)
    session.flush()
    session.add_all(WithdrawalDepositRow(withdrawal_id=withdrawal.id, deposit_id=row.id) for row in rows)
    registry.bump_generation(session, model.id)
    audit.record(
        session,
        approved_by or requester.name,
        "withdrawal.opened",
        model=model.name,
        subject=withdrawal.id,
        reason=body.reason,
        details={
            "holder": body.holder,
            "visibility": body.visibility,
            "deposits": [row.id for row in rows],
            "classes": [name for row in rows for name in deposits.class_names(session, row)],
            "expires_at": stamp(expires_at),
            **requester.details(),
        },
    )
    return withdrawal


def revoke(session: Session, actor: Actor, withdrawal_id: str) -> WithdrawalRow:
    """End a withdrawal. Once this returns, no answer shows the classes.

    Raises `UnknownWithdrawal`, `WithdrawalEnded`.
    """
    with session.begin():
        row = get(session, withdrawal_id)
        registry.lock(session, row.model_id)
        if state(row) == WithdrawalState.EXPIRED or not _end(session, row, actor.name, "withdrawal.revoked"):
            session.refresh(row)
            raise WithdrawalEnded(f"{_end_of(row)} There is nothing to revoke.")
    registry.await_answers()
    return row


def renew(session: Session, actor: Actor, withdrawal_id: str, renewal: WithdrawalRenewal) -> WithdrawalRow:
    """Give a withdrawal another end, or none.

    Raises `UnknownWithdrawal`, `WithdrawalEnded`, `ExpiryPassed`, and `RenewalNeedsSecondPerson` if it would last
    longer than the second person approved.
    """
    end = renewal.end()
    demand_future(end)
    with session.begin():
        row, model = _locked(session, withdrawal_id)
        is_longer = row.expires_at is not None and (end is None or end > row.expires_at)
        if model.needs_second_person and is_longer:
            raise RenewalNeedsSecondPerson(
                f"Model '{model.name}' needs a second person to make a withdrawal longer. Ask for a new withdrawal."
            )
        before, row.expires_at = row.expires_at, end
        registry.bump_generation(session, model.id)
        details = {"from": stamp(before), "until": stamp(end)}
        audit.record(
            session,
            actor.name,
            "withdrawal.renewed",
            model=model.name,
            subject=row.id,
            reason=renewal.reason,
            details=details,
        )
    if end is not None and (before is None or end < before):
        registry.await_answers()
    return row


def issue_token(session: Session, actor: Actor, withdrawal_id: str) -> str:
    """Return a new token for a held withdrawal; it cannot be read again. An earlier token stops working at once.

    Raises `UnknownWithdrawal`, `WithdrawalEnded`, `NotHeld`.
    """
    secret = tokens.new()
    with session.begin():
        row, model = _locked(session, withdrawal_id)
        if row.visibility != Visibility.HELD:
            raise NotHeld(f"Withdrawal '{withdrawal_id}' is public. Everybody sees its classes without a token.")
        details = {"is_first": row.token_digest is None}
        row.token_digest = tokens.digest(secret)
        registry.bump_generation(session, model.id)
        audit.record(session, actor.name, "withdrawal.token_issued", model=model.name, subject=row.id, details=details)
    if not details["is_first"]:
        registry.await_answers()
    return f"{TOKEN_PREFIX}{row.id}_{secret}"


def end_expired(session: Session) -> int:
    """Record the end of expired withdrawals. Answers stopped showing them when they expired. Returns how many."""
    with session.begin():
        query = sa.select(WithdrawalRow).where(WithdrawalRow.ended_at.is_(None), WithdrawalRow.expires_at <= now())
        return sum(
            _end(session, row, audit.RECONCILER, "withdrawal.expired", WithdrawalRow.expires_at <= now())
            for row in session.scalars(query.limit(1000)).all()
        )


def end_all(session: Session, actor: Actor, model_id: str) -> list[str]:
    """In the caller's transaction, under the model's lock: end every withdrawal of the model. Returns their ids."""
    rows = active(session, model_id)
    return [row.id for row in rows if _end(session, row, actor.name, "withdrawal.revoked")]


def _end(session: Session, row: WithdrawalRow, by: str, action: str, *where: sa.ColumnElement[bool]) -> bool:
    """Return False if it has already ended or no longer matches `where`: a renewal may have come first."""
    ended = changes(
        session,
        sa.update(WithdrawalRow)
        .where(WithdrawalRow.id == row.id, WithdrawalRow.ended_at.is_(None), *where)
        .values(ended_at=now(), ended_by=by),
    )
    if not ended:
        return False
    session.refresh(row)
    model = registry.by_id(session, row.model_id)
    registry.bump_generation(session, model.id)
    audit.record(session, by, action, model=model.name, subject=row.id, details={"deposits": deposit_ids(session, row)})
    return True


def get(session: Session, withdrawal_id: str) -> WithdrawalRow:
    """Raises `UnknownWithdrawal`."""
    row = session.get(WithdrawalRow, withdrawal_id)
    if row is None:
        raise UnknownWithdrawal(f"There is no withdrawal '{withdrawal_id[:64]}'. `GET /v1/withdrawals` lists them.")
    return row


def state(row: WithdrawalRow) -> WithdrawalState:
    if row.expires_at and row.expires_at <= (row.ended_at or now()):
        return WithdrawalState.EXPIRED
    return WithdrawalState.REVOKED if row.ended_at else WithdrawalState.ACTIVE


def _locked(session: Session, withdrawal_id: str) -> tuple[WithdrawalRow, registry.ModelRow]:
    """In the caller's transaction: an active withdrawal and its locked model."""
    row = get(session, withdrawal_id)
    model = registry.lock(session, row.model_id)
    session.refresh(row)
    _demand_active(row)
    return row, model


def _demand_active(row: WithdrawalRow) -> None:
    if state(row) != WithdrawalState.ACTIVE:
        raise WithdrawalEnded(f"{_end_of(row)} Ask a custodian for a new one.")


def _end_of(row: WithdrawalRow) -> str:
    if state(row) == WithdrawalState.EXPIRED:
        return f"Withdrawal '{row.id}' expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC."
    return f"Withdrawal '{row.id}' was revoked at {row.ended_at:%Y-%m-%d %H:%M:%S} UTC."


def visible(
    session: Session, model: registry.ModelRow, presented_tokens: Sequence[str], withdrawal_id: str | None = None
) -> list[WithdrawalRow]:
    """The withdrawals that a request sees: all public ones and those of its tokens, or only the one that it names.

    Raises `TokenRefused`, `WithdrawalEnded`; with an id, also `UnknownWithdrawal`, `WithdrawalOfOtherModel`.
    """
    held = {row.id: row for row in (_presented(session, model, token) for token in presented_tokens)}
    if withdrawal_id is None:
        public = [row for row in active(session, model.id) if row.visibility == Visibility.PUBLIC]
        return sorted([*public, *held.values()], key=lambda row: row.id)
    row = get(session, withdrawal_id)
    if row.model_id != model.id:
        raise WithdrawalOfOtherModel(f"Withdrawal '{withdrawal_id}' does not belong to model '{model.name}'.")
    if row.visibility == Visibility.HELD and row.id not in held:
        raise TokenRefused(f"Withdrawal '{withdrawal_id}' is held. Send its token in the header `Withdrawal-Token`.")
    _demand_active(row)
    return [row]


def _presented(session: Session, model: registry.ModelRow, token: str) -> WithdrawalRow:
    """The withdrawal of a token. Every wrong token gets the same words, so that they reveal nothing."""
    withdrawal_id, _, secret = token.removeprefix(TOKEN_PREFIX).partition("_")
    row = session.get(WithdrawalRow, withdrawal_id) if token.startswith(TOKEN_PREFIX) else None
    is_right = tokens.matches(secret, row.token_digest if row else None)
    if row is None or not is_right or row.model_id != model.id:
        raise TokenRefused(
            f"This Withdrawal-Token is not valid for model '{model.name}'. Ask its issuer for a new one."
        )
    _demand_active(row)
    return row


def active(session: Session, model_id: str, at: datetime | None = None) -> Sequence[WithdrawalRow]:
    """A model's public and held withdrawals that are neither revoked nor expired `at` a time (default: now)."""
    query = sa.select(WithdrawalRow).where(WithdrawalRow.model_id == model_id, WithdrawalRow.ended_at.is_(None))
    at = at or now()
    return [
        row for row in session.scalars(query.order_by(WithdrawalRow.id)) if not row.expires_at or row.expires_at > at
    ]


def count_active(session: Session) -> int:
    """How many withdrawals of all models are active now."""
    is_active = (
        WithdrawalRow.ended_at.is_(None),
        sa.or_(WithdrawalRow.expires_at.is_(None), WithdrawalRow.expires_at > now()),
    )
    return session.scalar(sa.select(sa.func.count()).select_from(WithdrawalRow).where(*is_active)) or 0


def deposit_ids(session: Session, row: WithdrawalRow) -> list[str]:
    return deposits_of(session, [row])[row.id]


def deposits_of(session: Session, rows: Sequence[WithdrawalRow]) -> dict[str, list[str]]:
    """The ids of each withdrawal's deposits, in order, by the withdrawal's id."""
    ids: dict[str, list[str]] = {row.id: [] for row in rows}
    query = sa.select(WithdrawalDepositRow).where(WithdrawalDepositRow.withdrawal_id.in_(ids))
    for row in session.scalars(query.order_by(WithdrawalDepositRow.deposit_id)):
        ids[row.withdrawal_id].append(row.deposit_id)
    return ids


def of_deposit(session: Session, deposit_id: str, page: PageRequest) -> tuple[Sequence[WithdrawalRow], str | None]:
    """Present and past withdrawals of a deposit, newest first."""
    ids = sa.select(WithdrawalDepositRow.withdrawal_id).where(WithdrawalDepositRow.deposit_id == deposit_id)
    return newest_first(session, sa.select(WithdrawalRow).where(WithdrawalRow.id.in_(ids)), WithdrawalRow.id, page)


def list_all(session: Session, page: PageRequest, model_name: str | None) -> tuple[Sequence[WithdrawalRow], str | None]:
    query = sa.select(WithdrawalRow)
    if model_name:
        query = query.where(WithdrawalRow.model_id == registry.get(session, model_name).id)
    return newest_first(session, query, WithdrawalRow.id, page)
