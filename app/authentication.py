"""Who sends a request."""

import logging

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError

from app.access import oidc
from app.access.oidc import IdentityProvider, ProviderAway
from app.access.service import Actor, Forbidden, Unauthenticated, authenticate, note_use
from app.limits import RateLimit

log = logging.getLogger(__name__)


def authenticated(request: Request) -> Actor:
    """The actor of a request, looked up once.

    Raises `Unauthenticated`, `TooManyRequests`, and what `IdentityProvider.actor` does.
    """
    if (actor := known(request)) is None:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        bearer = credentials.strip() if scheme.lower() == "bearer" else ""
        limit: RateLimit = request.app.state.rate_limit
        provider: IdentityProvider | None = request.app.state.identity_provider
        try:
            if provider and oidc.is_token(bearer):
                actor = provider.actor(bearer)
            else:
                with request.app.state.database.reading() as session:
                    actor = authenticate(session, bearer)
        except (Unauthenticated, Forbidden, ProviderAway):
            limit.count(f"address {request.client.host if request.client else 'unknown'}")
            raise
        limit.count(f"key {actor.key_id}")
        if actor.is_use_due:
            try:
                with request.app.state.database.session() as session:
                    note_use(session, actor)
            except SQLAlchemyError:  # who may read is not refused because the database takes no writes
                log.exception("the use of key %s was not written down", actor.key_id)
        request.state.actor = actor
    return actor


def known(request: Request) -> Actor | None:
    """The actor, once it was looked up."""
    actor: Actor | None = getattr(request.state, "actor", None)
    return actor
