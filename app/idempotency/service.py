"""Idempotency keys: a repeated request gets its first answer again and changes nothing.

Follows draft-ietf-httpapi-idempotency-key-header. A key is written in the same transaction as its change. So there is
no change without its key, and no key without its change, even if a process dies at any moment.
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

RETENTION = timedelta(hours=24)
_VALID_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_CLAIM, _WRITTEN = "idempotency claim of this session", "its key is in this transaction"


class InvalidKey(Problem):
    """The `Idempotency-Key` is empty, too long, or not printable ASCII. Send a UUID, for example."""

    status, slug, title = 400, "unfit-idempotency-key", "The idempotency key is not valid"


class KeyReused(Problem):
    """The `Idempotency-Key` belongs to another request of the last 24 hours. Use a new key."""

    status, slug, title = 422, "idempotency-key-reused", "The idempotency key belongs to another request"


class AnswerMissing(Problem):
    """The change is made, but its answer is not stored (yet). Look at the resource, or send it again."""

    status, slug, title = 409, "idempotent-answer-missing", "The request was carried out, but its answer is missing"


@dataclass
class Claim:
    """A request that must be carried out at most once. Set `request_digest` before anything is changed."""

    api_key_id: str
    key: str
    request_digest: str | None = None
    is_carried_out: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not _VALID_KEY.fullmatch(self.key):
            raise InvalidKey(
                "An Idempotency-Key has 1 to 255 printable ASCII characters and no spaces. Send a UUID, for example."
            )


def bind(session: Session, claim: Claim) -> None:
    """Write the claim's key together with the session's next change."""
    session.info[_CLAIM] = claim


def find(session: Session, claim: Claim) -> bytes | None:
    """The sealed answer to the first request with this key; None if there was no such request.

    Raises `KeyReused`, and `AnswerMissing` if the change was made but its answer is not stored.
    """
    row = session.scalar(
        sa.select(IdempotencyRow).where(*_key_of(claim), IdempotencyRow.created_at >= now() - RETENTION)
    )
    if row is None:
        return None
    if row.request_digest != claim.request_digest:
        raise KeyReused(
            "Another request with this Idempotency-Key was sent in the last 24 hours. Use a new key for a new request."
        )
    if row.answer is None:
        raise _answer_missing(row.subject)
    return row.answer


def store_answer(session: Session, claim: Claim, answer: bytes) -> None:
    """Store the answer to a claim's request. The caller has sealed it."""
    with session.begin():
        session.execute(sa.update(IdempotencyRow).where(*_key_of(claim)).values(answer=answer))


def forget_expired(session: Session) -> None:
    """Delete the keys and answers that are older than `RETENTION`."""
    with session.begin():
        key = sa.tuple_(IdempotencyRow.api_key_id, IdempotencyRow.key)
        old = sa.select(IdempotencyRow.api_key_id, IdempotencyRow.key).where(
            IdempotencyRow.created_at < now() - RETENTION
        )
        unlocked = old.with_for_update(skip_locked=True)  # another reconciler deletes the locked ones
        session.execute(sa.delete(IdempotencyRow).where(key.in_(unlocked)))


def _key_of(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return IdempotencyRow.api_key_id == claim.api_key_id, IdempotencyRow.key == claim.key


def _answer_missing(subject: str | None) -> AnswerMissing:
    resource = f" to '{subject}'" if subject else ""
    return AnswerMissing(
        f"The change{resource} was made, but its answer is still on its way or was lost. "
        "Look at the resource, or send the request again in a second.",
        subject=subject,
    )


# Runs before the audit's listener, which clears the transaction's events.
@event.listens_for(Session, "before_commit", insert=True)
def _write(session: Session) -> None:
    claim: Claim | None = session.info.get(_CLAIM)
    if claim is None or claim.is_carried_out or session.in_nested_transaction():
        return
    subjects = audit.pending_subjects(session)
    if not subjects:  # the transaction changes nothing
        return
    assert claim.request_digest
    expired = sa.delete(IdempotencyRow).where(*_key_of(claim), IdempotencyRow.created_at < now() - RETENTION)
    session.execute(expired, execution_options={"synchronize_session": False})
    row = {"api_key_id": claim.api_key_id, "key": claim.key, "request_digest": claim.request_digest}
    try:
        session.execute(sa.insert(IdempotencyRow).values(**row, subject=subjects[0], created_at=now()))
    except IntegrityError as error:  # the same request, sent twice at the same time
        raise _answer_missing(None) from error
    session.info[_WRITTEN] = True


@event.listens_for(Session, "after_commit")
def _carried_out(session: Session) -> None:
    if session.info.pop(_WRITTEN, False):
        session.info[_CLAIM].is_carried_out = True


@event.listens_for(Session, "after_soft_rollback")
def _not_carried_out(session: Session, transaction: Any) -> None:
    if not transaction.nested:
        session.info.pop(_WRITTEN, None)
