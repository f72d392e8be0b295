"""Checkpoints of unfinished deposits. They are in the vault as all else, and are gone when the deposit ends."""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.deposits.tables import CheckpointRow, DepositRow
from app.vault import service as vaults
from app.vault.service import StoredObject

TARGET = "target"  # the part of a deposit that trains target and module; the others are older deposits' ids


def of_deposit(session: Session, deposit_id: str) -> dict[str, StoredObject]:
    """The newest checkpoint of each part of the work that has one."""
    rows = session.scalars(sa.select(CheckpointRow).where(CheckpointRow.deposit_id == deposit_id))
    return {row.part: vaults.stored(session, row.object_id) for row in rows}


def keep(session: Session, deposit_id: str, part: str, checkpoint: StoredObject) -> list[str]:
    """In the caller's transaction: takes the place of the part's older one; returns the vault names to remove after."""
    garbage = _forget(session, CheckpointRow.deposit_id == deposit_id, CheckpointRow.part == part)
    object_id = vaults.record(session, checkpoint)
    session.add(CheckpointRow(deposit_id=deposit_id, part=part, object_id=object_id))
    return garbage


def forget(session: Session, deposit_id: str) -> list[str]:
    """In the caller's transaction: those of a deposit that ends; returns the vault names to remove after."""
    return _forget(session, CheckpointRow.deposit_id == deposit_id)


def forget_of_model(session: Session, model_id: str) -> list[str]:
    """In the caller's transaction: all of a model, whose network is another one now; returns names as `forget`.

    A deposit that went on from a network of before would bring back what was deposited since.
    """
    of_model = sa.select(DepositRow.id).where(DepositRow.model_id == model_id)
    return _forget(session, CheckpointRow.deposit_id.in_(of_model))


def forget_scrubs(session: Session, older_deposit_id: str) -> list[str]:
    """In the caller's transaction: those that know what an older deposit's module knows; returns names as `forget`."""
    return _forget(session, CheckpointRow.part == older_deposit_id)


def _forget(session: Session, *which: sa.ColumnElement[bool]) -> list[str]:
    # Of two that forget the same, one is given it: not all that end a deposit hold the model's lock.
    deleted = sa.delete(CheckpointRow).where(*which).returning(CheckpointRow.object_id)
    object_ids = session.scalars(deleted, execution_options={"synchronize_session": "fetch"}).all()
    return [vaults.forget(session, object_id) for object_id in object_ids]
