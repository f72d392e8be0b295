"""Who sends a request."""

from fastapi import Request

from app.access.service import Actor, authenticate


def authenticated(request: Request) -> Actor:
    """The actor of a request, looked up once. Raises `Unauthenticated`."""
    if not hasattr(request.state, "actor"):
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        with request.app.state.database.reading() as session:
            request.state.actor = authenticate(session, token.strip() if scheme.lower() == "bearer" else None)
    actor: Actor = request.state.actor
    return actor
