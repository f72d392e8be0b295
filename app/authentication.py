"""Who sends a request."""

from fastapi import Request

from app.access.service import Actor, authenticate, note_use


def authenticated(request: Request) -> Actor:
    """The actor of a request, looked up once. Raises `Unauthenticated`."""
    if not hasattr(request.state, "actor"):
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        with request.app.state.database.reading() as session:
            actor = authenticate(session, token.strip() if scheme.lower() == "bearer" else None)
        if actor.is_use_due:
            with request.app.state.database.session() as session:
                note_use(session, actor)
        request.state.actor = actor
    known: Actor = request.state.actor
    return known
