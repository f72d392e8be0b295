"""Sessions of the console: who is signed in, and until when. A browser has only the random id."""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.service import Actor
from app.access.tables import ConsoleSessionRow
from app.base import tokens
from app.base.database import now


def begin(session: Session, actor: Actor, seconds: float) -> str:
    """Sign the actor in to the console for this long. Returns the random id of the session, which is not stored."""
    session_id = tokens.new()
    with session.begin():
        session.add(
            ConsoleSessionRow(
                id_digest=tokens.digest(session_id), key_id=actor.key_id, ends_at=now() + timedelta(seconds=seconds)
            )
        )
    return session_id


def is_signed_in(session: Session, session_id: str) -> bool:
    """Whether the session has neither ended nor been signed out."""
    row = session.get(ConsoleSessionRow, tokens.digest(session_id))
    return row is not None and row.ends_at > now()


def end(session: Session, session_id: str) -> None:
    """Sign out. The session's cookie is worth nothing from now on, also in other hands."""
    with session.begin():
        is_session = ConsoleSessionRow.id_digest == tokens.digest(session_id)
        session.execute(sa.delete(ConsoleSessionRow).where(is_session))


def forget_ended(session: Session) -> None:
    """Delete the sessions that have ended by themselves."""
    with session.begin():
        session.execute(sa.delete(ConsoleSessionRow).where(ConsoleSessionRow.ends_at <= now()))
