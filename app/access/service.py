"""Who may do what: API keys and roles."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.tables import ApiKeyRow
from app.audit import service as audit
from app.base import tokens
from app.base.database import changes, new_id, now
from app.base.errors import Problem
from app.base.expiry import demand_future
from app.base.paging import PageRequest, newest_first

LAST_USED_STEP = timedelta(minutes=1)
EXTERNAL = "oidc"  # begins ids and names of an identity provider's people; the ids of API keys are hexadecimal


class Role(StrEnum):
    """operator: register, deposit; custodian: withdraw, revoke, restore; auditor: read the audit; administrator: all.

    A key without a role may ask models for predictions and read what they are.
    """

    OPERATOR = "operator"
    CUSTODIAN = "custodian"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"


@dataclass(frozen=True)
class Actor:
    """Who acts: the name goes into the audit. `is_use_due`: it is time for `note_use`."""

    key_id: str
    name: str
    roles: frozenset[Role]
    is_use_due: bool = False
    key_made_at: datetime | None = None

    def has(self, *roles: Role) -> bool:
        return Role.ADMINISTRATOR in self.roles or not self.roles.isdisjoint(roles)


LOCAL_ADMINISTRATOR = Actor("local", "local administrator", frozenset({Role.ADMINISTRATOR}))


class Unauthenticated(Problem):
    status, slug, title = 401, "unauthenticated", "No valid API key or token"


class Forbidden(Problem):
    status, slug, title = 403, "forbidden", "Whoever asks has not the role this needs"


class UnknownKey(Problem):
    status, slug, title = 404, "unknown-key", "There is no such API key"


def create_key(
    session: Session, actor: Actor, name: str, roles: Sequence[Role], expires_at: datetime | None = None
) -> tuple[ApiKeyRow, str]:
    """A new key and its secret, which is told this once. Raises `ExpiryPassed`."""
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
        until = expires_at.isoformat() if expires_at else None
        details = {"name": name, "roles": row.roles, "expires_at": until}
        audit.record(session, actor.name, "key.created", subject=row.id, details=details)
    return row, f"lirf_{prefix}_{secret}"


def revoke_key(session: Session, actor: Actor, key_id: str) -> None:
    """The key is refused from now on. Raises `UnknownKey`."""
    with session.begin():
        revoked = changes(
            session,
            sa.update(ApiKeyRow).where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None)).values(revoked_at=now()),
        )
        if not revoked:
            raise UnknownKey(f"there is no API key '{key_id}' to revoke; `GET /v1/keys` lists them.")
        audit.record(session, actor.name, "key.revoked", subject=key_id)


def list_keys(session: Session, page: PageRequest) -> tuple[Sequence[ApiKeyRow], str | None]:
    return newest_first(session, sa.select(ApiKeyRow), ApiKeyRow.id, page)


def has_keys(session: Session) -> bool:
    return session.scalar(sa.select(sa.exists(sa.select(ApiKeyRow.id)))) or False


_PREFIX = re.compile(r"[0-9a-f]{12}")
# Columns and no object: each request asks this.
_KEY_OF_PREFIX = sa.select(*ApiKeyRow.__table__.columns).where(ApiKeyRow.prefix == sa.bindparam("prefix"))


def actor_of(session: Session, token: str) -> Actor | None:
    """The actor behind a bearer token; None where it is none, a wrong or an ended one, in the same time."""
    parts = token.split("_", 2)
    is_formed = len(parts) == 3 and parts[0] == "lirf" and _PREFIX.fullmatch(parts[1])
    prefix, secret = parts[1:] if is_formed else ("", "")
    row = session.execute(_KEY_OF_PREFIX, {"prefix": prefix}).one_or_none()
    is_right = tokens.matches(secret, row.secret_digest if row else None)
    if row is None or not is_right or _is_over(row):
        return None
    is_use_due = row.last_used_at is None or row.last_used_at < now() - LAST_USED_STEP
    return Actor(row.id, row.name, frozenset(Role(role) for role in row.roles), is_use_due, row.created_at)


def is_valid(session: Session, key_id: str) -> bool:
    """Whether the key is there, and neither revoked nor ended. Of others, their provider says so at each token."""
    if key_id.startswith(EXTERNAL):
        return True
    row = session.get(ApiKeyRow, key_id)
    return row is not None and not _is_over(row)


def _is_over(row: ApiKeyRow | sa.Row[Any]) -> bool:
    return row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now())


def note_use(session: Session, actor: Actor) -> None:
    """Writes down that the key was used, once in each `LAST_USED_STEP`."""
    used, at = ApiKeyRow.last_used_at, now()
    is_due = sa.or_(used.is_(None), used < at - LAST_USED_STEP)
    with session.begin():
        changes(session, sa.update(ApiKeyRow).where(ApiKeyRow.id == actor.key_id, is_due).values(last_used_at=at))


def demand(actor: Actor, *roles: Role) -> None:
    """Raises `Forbidden` unless the actor has one of the roles (an administrator has all)."""
    if not actor.has(*roles):
        raise Forbidden(
            f"this needs the role {' or '.join(roles)}; '{actor.name}' has {', '.join(actor.roles) or 'none'}."
        )
