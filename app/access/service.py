"""API keys and roles: who may do what."""

import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.access import names
from app.access.names import EXTERNAL as EXTERNAL
from app.access.tables import ApiKeyRow
from app.audit import service as audit
from app.base import tokens, trust_domain
from app.base.caller import caller_id
from app.base.database import changes, new_id, now, stamp
from app.base.errors import Problem
from app.base.expiry import demand_future
from app.base.paging import PageRequest, newest_first
from app.base.trust_domain import EVERYTHING, TrustDomain

UNKNOWN = "unknown"  # the person of a key whose maker an earlier version did not record
LAST_USED_STEP = timedelta(minutes=1)


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
    """Who sends a request. The audit records the id, and the name as a label.

    key_id: of the API key or of the identity. domain: the models that it may see. is_use_unrecorded: call `record_use`
    for it. token_ends_at: when the token of an identity provider is no longer accepted, in seconds since 1970.
    """

    key_id: str
    name: str
    roles: frozenset[Role]
    is_use_unrecorded: bool = False
    key_created_at: datetime | None = None
    domain: TrustDomain = EVERYTHING
    person_id: str | None = None
    token_ends_at: float | None = None

    @property
    def token_has_expired(self) -> bool:
        return self.token_ends_at is not None and self.token_ends_at <= time.time()

    def has(self, *roles: Role) -> bool:
        return Role.ADMINISTRATOR in self.roles or not self.roles.isdisjoint(roles)

    @property
    def person(self) -> str:
        """Whom the actor counts as if an act needs two people: decision 19."""
        return self.person_id or self.key_id


LOCAL_ADMINISTRATOR = Actor("local", names.LOCAL, frozenset({Role.ADMINISTRATOR}))


def act_for(actor: Actor) -> None:
    """From here on, this context acts for the actor: it sees only the actor's domain, and the audit names its id."""
    trust_domain.current.set(actor.domain)
    caller_id.set(actor.key_id)


def act_for_nobody() -> None:
    """Until somebody is known, this context sees no model."""
    trust_domain.current.set(trust_domain.NOTHING)
    caller_id.set(None)


class Unauthenticated(Problem):
    """No key or token was sent, or it is wrong, revoked or expired. Send `Authorization: Bearer lirf_...`."""

    status, slug, title = 401, "unauthenticated", "No valid API key or token"


class Forbidden(Problem):
    """The key lacks a role that the route needs. Ask an administrator for a key that has it."""

    status, slug, title = 403, "forbidden", "A role is missing"


class UnknownKey(Problem):
    """No API key has this id, or it is revoked already. `GET /v1/keys` lists the keys."""

    status, slug, title = 404, "unknown-key", "There is no such API key"


class NameRefused(Problem):
    """The name of a key is reserved, or could pass for another name. Choose a name that says who uses the key."""

    status, slug, title = 422, "key-name-refused", "The name of the key cannot be used"


class KeyNameTaken(Problem):
    """A key that has not ended has this name, or one that looks like it. Choose another name, or revoke that key."""

    status, slug, title = 409, "key-name-taken", "Another key has this name"


class LastAdministrator(Problem):
    """Without this key, no administrator's key for all models would be left. Create another one first."""

    status, slug, title = 409, "last-administrator", "This is the last administrator's key"


class OutsideTrustDomain(Problem):
    """The key is bound to models, and the request concerns others. Choose a name that its patterns allow."""

    status, slug, title = 403, "outside-trust-domain", "The key is bound to other models"


class BoundKey(Problem):
    """The key is bound to models, and the request concerns the whole installation. Use a key that is not bound."""

    status, slug, title = 403, "bound-key", "The key is bound to models"


def create_key(
    session: Session,
    actor: Actor,
    name: str,
    roles: Sequence[Role],
    expires_at: datetime | None = None,
    models: Sequence[str] | None = None,
) -> tuple[ApiKeyRow, str]:
    """Create a key. Returns its row and the key itself, which is not stored.

    models: patterns of the names of the models that the key is bound to; None for all models.
    Raises `ExpiryPassed`, `NameRefused`, `KeyNameTaken`, and `OutsideTrustDomain` if the actor is bound to fewer
    models.
    """
    demand_future(expires_at)
    if fault := names.fault_of(name):
        raise NameRefused(fault)
    domain = _domain(models)
    if not actor.domain.includes(domain):
        raise OutsideTrustDomain(
            f"Key '{actor.name}' is bound to {actor.domain}, so the keys that it creates must be bound to models "
            "within these. Name them in `models`."
        )
    prefix, secret = secrets.token_hex(6), tokens.new()
    row_id = new_id()
    row = ApiKeyRow(
        id=row_id,
        name=name,
        normal_name=names.normal_form(name),
        prefix=prefix,
        secret_digest=tokens.digest(secret),
        roles=[str(role) for role in roles],
        models=list(domain.patterns) if domain.patterns is not None else None,
        made_by_id=actor.key_id,
        person_id=row_id if actor is LOCAL_ADMINISTRATOR else actor.person,
        created_at=now(),
        expires_at=expires_at,
    )
    with session.begin():
        has_name = ApiKeyRow.normal_name == row.normal_name
        _end(session, has_name)  # a key that has expired no longer holds its name
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            raise KeyNameTaken(
                f"A key has the name '{name}', or one that looks like it. Choose another name, or revoke that key "
                "first. `GET /v1/keys` lists the keys."
            ) from None
        details = {"name": name, "roles": row.roles, "expires_at": stamp(expires_at), "models": row.models}
        details |= {"made_by_id": row.made_by_id, "person_id": row.person_id}
        audit.record(session, actor.name, "key.created", subject=row.id, details=details)
    return row, f"lirf_{prefix}_{secret}"


def revoke_key(session: Session, actor: Actor, key_id: str) -> None:
    """Revoke a key, at once. Raises `UnknownKey`, `LastAdministrator`."""
    with session.begin():
        is_unrevoked = ApiKeyRow.revoked_at.is_(None)
        # Locked in one order, so that two administrators cannot revoke each other at the same time.
        unrevoked = sa.select(ApiKeyRow).where(is_unrevoked).order_by(ApiKeyRow.id).with_for_update()
        rows = {row.id: row for row in session.scalars(unrevoked)}
        row = rows.get(key_id)
        if row is None or not actor.domain.includes(_domain(row.models)):
            raise UnknownKey(f"There is no API key '{key_id[:64]}' to revoke. `GET /v1/keys` lists the keys.")
        _demand_another_administrator(row, rows.values())
        values = {"revoked_at": now(), "normal_name": None}
        if not changes(session, sa.update(ApiKeyRow).where(ApiKeyRow.id == key_id, is_unrevoked).values(values)):
            raise UnknownKey(f"API key '{key_id}' is revoked already.")
        audit.record(session, actor.name, "key.revoked", subject=key_id, details={"name": row.name})


def _demand_another_administrator(row: ApiKeyRow, rows: Iterable[ApiKeyRow]) -> None:
    """Raise `LastAdministrator` if no key that administers all models, and lasts as long as this one, is left."""

    def administers_all(row: ApiKeyRow) -> bool:
        return Role.ADMINISTRATOR in row.roles and row.models is None and not _has_ended(row)

    others = [other for other in rows if other.id != row.id and administers_all(other)]
    if administers_all(row) and not any(other.expires_at is None or row.expires_at for other in others):
        raise LastAdministrator(
            f"Key '{row.name}' ({row.id}) is the last administrator's key for all models"
            f"{' that does not expire' if others else ''}. Create another one first; on the server itself with "
            "`lirf keys create NAME --role administrator --local`."
        )


def end_expired(session: Session, only: sa.ColumnElement[bool] | None = None) -> int:
    """Record which keys have expired, so that a clock that goes back does not revive them. Returns how many."""
    with session.begin():
        return _end(session, sa.true() if only is None else only)


def _end(session: Session, which: sa.ColumnElement[bool]) -> int:
    """In the caller's transaction."""
    is_over = which, ApiKeyRow.expires_at <= now(), ApiKeyRow.ended_at.is_(None), ApiKeyRow.revoked_at.is_(None)
    count = 0
    for row in session.scalars(sa.select(ApiKeyRow).where(*is_over).limit(1000)).all():
        values = {"ended_at": now(), "normal_name": None}
        if changes(session, sa.update(ApiKeyRow).where(ApiKeyRow.id == row.id, *is_over).values(values)):
            details = {"name": row.name}
            service = audit.RECONCILER
            audit.record(session, service, "key.expired", actor_id=service, subject=row.id, details=details)
            count += 1
    return count


def list_keys(session: Session, actor: Actor, page: PageRequest) -> tuple[Sequence[ApiKeyRow], str | None]:
    """The keys, newest first, in the caller's transaction, which records who asked.

    A bound actor sees only those that are bound to models within its own.
    """
    audit.record(session, actor.name, "keys.listed")
    query = sa.select(ApiKeyRow)
    if actor.domain.is_bound:
        every = session.execute(sa.select(ApiKeyRow.id, ApiKeyRow.models).where(ApiKeyRow.models.is_not(None)))
        query = query.where(ApiKeyRow.id.in_([id for id, models in every if actor.domain.includes(_domain(models))]))
    return newest_first(session, query, ApiKeyRow.id, page)


def person_of(session: Session, key_id: str) -> str:
    """Whom a key or identity counts as if an act needs two people."""
    row = session.get(ApiKeyRow, key_id)
    return row.person_id if row else key_id


def _domain(models: Sequence[str] | None) -> TrustDomain:
    return TrustDomain(None if models is None else tuple(models))


def has_keys(session: Session) -> bool:
    return session.scalar(sa.select(sa.exists(sa.select(ApiKeyRow.id)))) or False


_PREFIX = re.compile(r"[0-9a-f]{12}")
# Columns instead of an ORM object: every request runs this query.
_KEY_OF_PREFIX = sa.select(*ApiKeyRow.__table__.columns).where(ApiKeyRow.prefix == sa.bindparam("prefix"))


@dataclass(frozen=True)
class Lookup:
    """The actor of a key, if it is valid. `expired_id`: the key, if its expiry is not recorded yet."""

    actor: Actor | None = None
    expired_id: str | None = None


def look_up(session: Session, token: str) -> Lookup:
    """Find a key. One that is malformed, wrong, revoked or expired has no actor. Takes the same time in each case."""
    parts = token.split("_", 2)
    is_formed = len(parts) == 3 and parts[0] == "lirf" and _PREFIX.fullmatch(parts[1])
    prefix, secret = parts[1:] if is_formed else ("", "")
    row = session.execute(_KEY_OF_PREFIX, {"prefix": prefix}).one_or_none()
    is_match = tokens.matches(secret, row.secret_digest if row else None)
    if row is None or not is_match:
        return Lookup()
    if _has_ended(row):
        return Lookup(expired_id=row.id if row.ended_at is None and row.revoked_at is None else None)
    is_use_unrecorded = row.last_used_at is None or row.last_used_at < now() - LAST_USED_STEP
    roles = frozenset(Role(role) for role in row.roles)
    return Lookup(Actor(row.id, row.name, roles, is_use_unrecorded, row.created_at, _domain(row.models), row.person_id))


def record_expiry(session: Session, key_id: str) -> None:
    """Record that a key has expired."""
    end_expired(session, ApiKeyRow.id == key_id)


def is_valid(session: Session, key_id: str) -> bool:
    """Whether the key exists and is neither revoked nor expired.

    True for a user of an identity provider: the provider decides that with every token it signs, until it expires
    (`Actor.token_has_expired`).
    """
    if key_id.startswith(EXTERNAL):
        return True
    row = session.get(ApiKeyRow, key_id)
    return row is not None and not _has_ended(row)


def _has_ended(row: ApiKeyRow | sa.Row[*tuple[Any, ...]]) -> bool:
    has_expired = row.ended_at is not None or (row.expires_at is not None and row.expires_at <= now())
    return row.revoked_at is not None or has_expired


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
        if actor.token_has_expired:
            raise Unauthenticated(
                "The token expired before the change was made, so nothing is changed. Get a new one from your identity "
                "provider."
            )
        return
    # The lock makes a revocation that comes at the same time wait for this commit, or this commit for it.
    ends = ApiKeyRow.revoked_at, ApiKeyRow.ended_at, ApiKeyRow.expires_at
    locked = sa.select(*ends).where(ApiKeyRow.id == actor.key_id)
    row = session.execute(locked.with_for_update(read=True)).one_or_none()
    if row is None or _has_ended(row):
        raise Unauthenticated(
            "The key was revoked or has expired before the change was made, so nothing is changed. Ask an "
            "administrator for a new key."
        )


def demand_unbound(actor: Actor) -> None:
    """Raise `BoundKey` if the actor is bound to models."""
    if actor.domain.is_bound:
        raise BoundKey(
            f"Key '{actor.name}' is bound to {actor.domain}, but this concerns the whole installation. Use a key that "
            "is not bound to models."
        )


def demand(actor: Actor, *roles: Role) -> None:
    """Raise `Forbidden` unless the actor has one of the roles. An administrator has all."""
    if not actor.has(*roles):
        missing, present = " or ".join(f"'{role}'" for role in roles), ", ".join(sorted(actor.roles)) or "no role"
        raise Forbidden(
            f"Missing role {missing}. '{actor.name}' has {present}. Ask an administrator for a key that has the role."
        )
