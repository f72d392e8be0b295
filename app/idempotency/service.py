"""Idempotency keys: a request that is sent again is answered as it was the first time, and changes nothing.

(draft-ietf-httpapi-idempotency-key-header.) A key is written in the transaction of the change that it stands for: there
is no change without its key and no key without its change, whatever dies when.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.base.database import now
from app.base.errors import Problem
from app.idempotency.tables import IdempotencyRow

KEPT = timedelta(hours=24)
_FIT = re.compile(r"[\x21-\x7e]{1,255}")
_CLAIM, _WRITTEN = "idempotency claim of this session", "its key is in this transaction"


class UnfitKey(Problem):
    status, slug, title = 400, "unfit-idempotency-key", "The idempotency key cannot be taken"


class KeyReused(Problem):
    status, slug, title = 422, "idempotency-key-reused", "The idempotency key belongs to another request"


class AnswerMissing(Problem):
    status, slug, title = 409, "idempotent-answer-missing", "The request was carried out, and its answer is not there"


@dataclass
class Claim:
    """A request's wish to be carried out at most once. `request_digest` must be known before anything is changed."""

    api_key_id: str
    key: str
    request_digest: str | None = None
    is_carried_out: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not _FIT.fullmatch(self.key):
            raise UnfitKey(
                "an Idempotency-Key has 1 to 255 printable ASCII characters and no space; send a UUID, for example."
            )


def bind(session: Session, claim: Claim) -> None:
    """The session's next change carries the claim's key."""
    session.info[_CLAIM] = claim


def find(session: Session, claim: Claim) -> bytes | None:
    """The sealed answer of the request that had this key first; none where there was no such request.

    Raises `KeyReused`, and `AnswerMissing` when the change is made but not answered.
    """
    row = session.scalar(sa.select(IdempotencyRow).where(*_is(claim), IdempotencyRow.created_at >= now() - KEPT))
    if row is None:
        return None
    if row.request_digest != claim.request_digest:
        raise KeyReused(
            "another request was sent with this Idempotency-Key in the last 24 hours; a new request needs a new key."
        )
    if row.answer is None:
        raise _missing(row.subject)
    return row.answer


def keep(session: Session, claim: Claim, answer: bytes) -> None:
    """answer: sealed by the caller."""
    with session.begin():
        session.execute(sa.update(IdempotencyRow).where(*_is(claim)).values(answer=answer))


def forget_expired(session: Session) -> None:
    with session.begin():
        key = sa.tuple_(IdempotencyRow.api_key_id, IdempotencyRow.key)
        old = sa.select(IdempotencyRow.api_key_id, IdempotencyRow.key).where(IdempotencyRow.created_at < now() - KEPT)
        mine = old.with_for_update(skip_locked=True)  # another reconciler has the others
        session.execute(sa.delete(IdempotencyRow).where(key.in_(mine)))


def _is(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return IdempotencyRow.api_key_id == claim.api_key_id, IdempotencyRow.key == claim.key


def _missing(subject: str | None) -> AnswerMissing:
    of = f" of '{subject}'" if subject else ""
    return AnswerMissing(
        f"the change{of} is made, but its answer is still on its way or was lost; "
        "look at what you asked for, or send this again in a second.",
        subject=subject,
    )


# Before the audit's own listener, which takes the events of the transaction away.
@event.listens_for(Session, "before_commit", insert=True)
def _write(session: Session) -> None:
    claim: Claim | None = session.info.get(_CLAIM)
    if claim is None or claim.is_carried_out or session.in_nested_transaction():
        return
    subjects = audit.pending_subjects(session)
    if not subjects:  # nothing is changed
        return
    assert claim.request_digest
    expired = sa.delete(IdempotencyRow).where(*_is(claim), IdempotencyRow.created_at < now() - KEPT)
    session.execute(expired, execution_options={"synchronize_session": False})
    row = {"api_key_id": claim.api_key_id, "key": claim.key, "request_digest": claim.request_digest}
    try:
        session.execute(sa.insert(IdempotencyRow).values(**row, subject=subjects[0], created_at=now()))
    except IntegrityError as error:  # the same request, sent twice at once
        raise _missing(None) from error
    session.info[_WRITTEN] = True


@event.listens_for(Session, "after_commit")
def _carried_out(session: Session) -> None:
    if session.info.pop(_WRITTEN, False):
        session.info[_CLAIM].is_carried_out = True


@event.listens_for(Session, "after_soft_rollback")
def _not_carried_out(session: Session, transaction: Any) -> None:
    if not transaction.nested:
        session.info.pop(_WRITTEN, None)
