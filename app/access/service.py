"""API keys and roles: who may do what."""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.access.tables import ApiKeyRow
from app.audit import service as audit
from app.base import tokens
from app.base.database import changes, new_id, now, stamp
from app.base.errors import Problem
from app.base.expiry import demand_future
from app.base.paging import PageRequest, newest_first

LAST_USED_STEP = timedelta(minutes=1)
EXTERNAL = "oidc"  # prefix of the ids and names of an identity provider's users; ids of API keys are hexadecimal


_FIND_ACTOR = "finds the actor of this session"


class Role(StrEnum):
    """operator: register, deposit; custodian: withdraw, revoke, restore; auditor: read the audit; administrator: all.

    A key without a role may ask models for predictions and read their descriptions.
    """

    OPERATOR = "operator"
    CUSTODIAN = "custodian"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"


@dataclass(frozen=True)
class Actor:
    """Who sends a request. The audit records the name. `is_use_unrecorded`: call `record_use` for it."""

    key_id: str
    name: str
    roles: frozenset[Role]
    is_use_unrecorded: bool = False
    key_created_at: datetime | None = None

    def has(self, *roles: Role) -> bool:
        return Role.ADMINISTRATOR in self.roles or not self.roles.isdisjoint(roles)


LOCAL_ADMINISTRATOR = Actor("local", "local administrator", frozenset({Role.ADMINISTRATOR}))


class Unauthenticated(Problem):
    """No key or token was sent, or it is wrong, revoked or expired. Send `Authorization: Bearer lirf_...`."""

    status, slug, title = 401, "unauthenticated", "No valid API key or token"


class Forbidden(Problem):
    """The key lacks a role that the route needs. Ask an administrator for a key that has it."""

    status, slug, title = 403, "forbidden", "A role is missing"


class UnknownKey(Problem):
    """No API key has this id, or it is revoked already. `GET /v1/keys` lists the keys."""

    status, slug, title = 404, "unknown-key", "There is no such API key"


def create_key(
    session: Session, actor: Actor, name: str, roles: Sequence[Role], expires_at: datetime | None = None
) -> tuple[ApiKeyRow, str]:
    """Create a key. Returns its row and the key itself, which is not stored. Raises `ExpiryPassed`."""
    demand_future(expires_at)
    prefix, secret = secrets.token_hex(6), tokens.new()
    row = ApiKeyRow(
        id=new_id(),
        name=name,
        prefix=prefix,
        secret_digest=tokens.digest(secret),
        roles=[str(role) for role in roles],
        created_at=now(),
        expires_at=expires_at,
    )
    with session.begin():
        session.add(row)
        details = {"name": name, "roles": row.roles, "expires_at": stamp(expires_at)}
        audit.record(session, actor.name, "key.created", subject=row.id, details=details)
    return row, f"lirf_{prefix}_{secret}"


def revoke_key(session: Session, actor: Actor, key_id: str) -> None:
    """Revoke a key, at once. Raises `UnknownKey`."""
    with session.begin():
        revoked = changes(
            session,
            sa.update(ApiKeyRow).where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None)).values(revoked_at=now()),
        )
        if not revoked:
            raise UnknownKey(f"There is no API key '{key_id}' to revoke. `GET /v1/keys` lists the keys.")
        audit.record(session, actor.name, "key.revoked", subject=key_id)


def list_keys(session: Session, page: PageRequest) -> tuple[Sequence[ApiKeyRow], str | None]:
    return newest_first(session, sa.select(ApiKeyRow), ApiKeyRow.id, page)


def has_keys(session: Session) -> bool:
    return session.scalar(sa.select(sa.exists(sa.select(ApiKeyRow.id)))) or False


_PREFIX = re.compile(r"[0-9a-f]{12}")
# Columns instead of an ORM object: every request runs this query.
_KEY_OF_PREFIX = sa.select(*ApiKeyRow.__table__.columns).where(ApiKeyRow.prefix == sa.bindparam("prefix"))


def actor_of(session: Session, token: str) -> Actor | None:
    """The actor of an API key; None if it is malformed, wrong, revoked or expired. Takes the same time in each case."""
    parts = token.split("_", 2)
    is_formed = len(parts) == 3 and parts[0] == "lirf" and _PREFIX.fullmatch(parts[1])
    prefix, secret = parts[1:] if is_formed else ("", "")
    row = session.execute(_KEY_OF_PREFIX, {"prefix": prefix}).one_or_none()
    is_match = tokens.matches(secret, row.secret_digest if row else None)
    if row is None or not is_match or _has_ended(row):
        return None
    is_use_unrecorded = row.last_used_at is None or row.last_used_at < now() - LAST_USED_STEP
    return Actor(row.id, row.name, frozenset(Role(role) for role in row.roles), is_use_unrecorded, row.created_at)


def is_valid(session: Session, key_id: str) -> bool:
    """Whether the key exists and is neither revoked nor expired.

    True for a user of an identity provider: the provider decides that with every token it signs.
    """
    if key_id.startswith(EXTERNAL):
        return True
    row = session.get(ApiKeyRow, key_id)
    return row is not None and not _has_ended(row)


def _has_ended(row: ApiKeyRow | sa.Row[Any]) -> bool:
    return row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now())


def record_use(session: Session, actor: Actor) -> None:
    """Record that the key is in use, at most once in each `LAST_USED_STEP`."""
    used, at = ApiKeyRow.last_used_at, now()
    is_unrecorded = sa.or_(used.is_(None), used < at - LAST_USED_STEP)
    with session.begin():
        changes(
            session, sa.update(ApiKeyRow).where(ApiKeyRow.id == actor.key_id, is_unrecorded).values(last_used_at=at)
        )


def bind(session: Session, find_actor: Callable[[], Actor | None]) -> None:
    """Commit nothing that this actor changes with the session if its key no longer holds by then.

    find_actor: None for what needs no key.
    """
    session.info[_FIND_ACTOR] = find_actor


# Runs before the audit's listener, which clears the transaction's events.
@event.listens_for(Session, "before_commit", insert=True)
def _demand_valid_key(session: Session) -> None:
    find_actor: Callable[[], Actor | None] | None = session.info.get(_FIND_ACTOR)
    if find_actor is None or session.in_nested_transaction():
        return
    subjects = audit.pending_subjects(session)
    actor = find_actor()
    if actor is None or not subjects or actor.key_id in subjects:  # nothing is changed, or the key revokes itself
        return
    if actor.key_id.startswith(EXTERNAL):
        return
    # The lock makes a revocation that comes at the same time wait for this commit, or this commit for it.
    locked = sa.select(ApiKeyRow.revoked_at, ApiKeyRow.expires_at).where(ApiKeyRow.id == actor.key_id)
    row = session.execute(locked.with_for_update(read=True)).one_or_none()
    if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now()):
        raise Unauthenticated(
            "The key was revoked or has expired before the change was made, so nothing is changed. Ask an "
            "administrator for a new key."
        )


def demand(actor: Actor, *roles: Role) -> None:
    """Raise `Forbidden` unless the actor has one of the roles. An administrator has all."""
    if not actor.has(*roles):
        missing, present = " or ".join(f"'{role}'" for role in roles), ", ".join(sorted(actor.roles)) or "no role"
        raise Forbidden(
            f"Missing role {missing}. '{actor.name}' has {present}. Ask an administrator for a key that has the role."
        )
