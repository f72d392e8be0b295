"""Erases what shredding leaves behind: the wrapped key in the database's files, and the object's bytes.

Shredding writes down that this is due, in its own transaction. So a process that dies before it is done, or a reader
that holds a snapshot, only delays it: the reconciler goes on.
"""

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.base.database import Database
from app.vault.service import Vault
from app.vault.tables import ErasureRow

WAIT_SECONDS = 10.0  # how long an answer is delayed by readers that hold a snapshot
ROUND = 1000  # objects that one round of the reconciler takes on

log = logging.getLogger(__name__)


def erase(database: Database, vault: Vault, names: Sequence[str]) -> None:
    """Erase shredded keys from the database's files and delete the objects' bytes. Call it after the transaction.

    Waits `WAIT_SECONDS` for readers. `obstacles` says what is left after that.
    """
    if names:
        _erase(database, vault, names, WAIT_SECONDS)


def finish(database: Database, vault: Vault) -> None:
    """Erase what is still due, if nothing is in the way now. The reconciler calls this in each round."""
    with database.reading() as session:
        names = session.scalars(sa.select(ErasureRow.name).order_by(ErasureRow.object_id).limit(ROUND)).all()
    if names:
        _erase(database, vault, names, 0.0)


def due(database: Database, model_id: str) -> Sequence[str]:
    """The names of a model's shredded objects that may still have traces."""
    with database.reading() as session:
        return session.scalars(sa.select(ErasureRow.name).where(ErasureRow.model_id == model_id)).all()


def obstacles(session: Session, model_id: str) -> list[str]:
    """What still holds shredded keys or bytes of a model, and why. Empty if all is gone."""
    texts = session.scalars(sa.select(ErasureRow.obstacle).where(ErasureRow.model_id == model_id).distinct()).all()
    return sorted(text or "The erasure is not finished." for text in texts)


def count_due(session: Session) -> int:
    """How many shredded objects may still have traces."""
    return session.scalar(sa.select(sa.func.count()).select_from(ErasureRow)) or 0


def _erase(database: Database, vault: Vault, names: Sequence[str], wait_seconds: float) -> None:
    try:
        obstacle = database.erase_freed_data(wait_seconds)
    except SQLAlchemyError as error:
        log.exception("shredded keys could not be erased from the database's files; the reconciler tries again")
        obstacle = f"The database could not erase it ({type(error).__name__})."
    stuck = vault.remove(names)
    left = dict.fromkeys(names, obstacle) if obstacle else {}
    left |= dict.fromkeys(stuck, "The vault's store did not delete the bytes, which are noise without the key.")
    _note(database, [name for name in names if name not in left], left)
    if left:
        log.warning("%d shredded objects still have traces. %s", len(left), " ".join(sorted(set(left.values()))))


def _note(database: Database, gone: list[str], left: dict[str, str]) -> None:
    """Write down what is erased, with an event if it was answered as not erased, and what is in the way of the rest."""
    with database.session() as session, session.begin():
        erased = sa.delete(ErasureRow).where(ErasureRow.name.in_(gone)).returning(ErasureRow.name, ErasureRow.obstacle)
        if late := sorted(name for name, obstacle in session.execute(erased).all() if obstacle):
            audit.record(session, audit.RECONCILER, "vault.erased", details={"objects": late})
        for text in set(left.values()):
            names = [name for name in left if left[name] == text]
            session.execute(sa.update(ErasureRow).where(ErasureRow.name.in_(names)).values(obstacle=text))
