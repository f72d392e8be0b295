"""Scrubbed modules: what a module becomes once a class of another deposit, which it knows, is destroyed for good.

A job scrubs each older module of its classes, and each of its own modules of its other groups'. By the policy, the
scrubbed one replaces the module at once, or waits beside it in the vault; until then, a withdrawal loses nothing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from app.deposits.tables import DepositRow, Kind, State
from app.registry import service as registry
from app.vault import service as vaults
from app.vault.service import StoredObject


@dataclass(frozen=True)
class ScrubbedModule:
    """The scrubbed module of a deposit, in the vault.

    loss: points that the deposit's classes lose when it takes the module's place; None if that was not measured.
    """

    deposit_id: str
    stored: StoredObject
    loss: float | None


@dataclass(frozen=True)
class Replaced:
    """The deposits whose scrubbed module is in use from now on, and vault names to remove after the transaction."""

    deposits: list[str]
    garbage: list[str]


def keep(session: Session, row: DepositRow, scrubbed: ScrubbedModule) -> list[str]:
    """In the caller's transaction: record the waiting module, and shred the one that waited before, if any.

    Returns the vault names to remove after it.
    """
    garbage = [vaults.shred(session, row.scrubbed_object_id)] if row.scrubbed_object_id else []
    row.scrubbed_object_id, row.scrubbed_loss = vaults.record(session, scrubbed.stored), scrubbed.loss
    session.flush()
    return garbage


def put_in_place(session: Session, model_id: str, purged: DepositRow | None = None) -> Replaced:
    """In the caller's transaction, under the model's lock: replace modules by their waiting scrubbed ones.

    purged: only those that know the classes of this deposit.
    """
    replaced = knowing(session, purged) if purged else _with_waiting(session, model_id)
    revision = registry.by_id(session, model_id).revision
    garbage = [_put_in_place(session, row, revision) for row in replaced]
    if replaced:
        session.flush()
        registry.count_replacement(session, model_id)
    return Replaced([row.id for row in replaced], garbage)


def knowing(session: Session, other: DepositRow) -> list[DepositRow]:
    """The deposits whose module in use still knows the classes of this one, oldest first."""
    return [row for row in _with_waiting(session, other.model_id) if _knows(row, other)]


def known_others(session: Session, rows: Collection[DepositRow]) -> dict[str, list[DepositRow]]:
    """The other deposits whose classes each deposit's module in use still knows, oldest first, by the deposit's id.

    A deposit that is left out knows none. It takes the same number of queries for any number of deposits.
    """
    waiting = [row for row in rows if row.scrubbed_object_id]
    if not waiting:
        return {}
    of_models = DepositRow.model_id.in_({row.model_id for row in waiting}), DepositRow.state == State.DEPOSITED
    others = session.scalars(few_columns().where(*of_models).order_by(DepositRow.revision, DepositRow.id)).all()
    return {row.id: [one for one in others if one.model_id == row.model_id and _knows(row, one)] for row in waiting}


def _with_waiting(session: Session, model_id: str) -> Sequence[DepositRow]:
    waiting = few_columns().where(DepositRow.model_id == model_id, DepositRow.scrubbed_object_id.is_not(None))
    return session.scalars(waiting.order_by(DepositRow.revision, DepositRow.id)).all()


def few_columns() -> sa.Select[DepositRow]:
    """Deposits without their figures, which have an entry for each other deposit."""
    return sa.select(DepositRow).options(defer(DepositRow.metrics), defer(DepositRow.losses), defer(DepositRow.config))


def _put_in_place(session: Session, row: DepositRow, revision: int | None) -> str:
    assert row.module_object_id
    assert row.scrubbed_object_id
    garbage = vaults.shred(session, row.module_object_id)
    row.module_object_id, row.scrubbed_object_id = row.scrubbed_object_id, None
    row.module_bytes = vaults.stored_object(session, row.module_object_id).plaintext_bytes
    row.replaced_loss, row.scrubbed_loss = row.replaced_loss + max(row.scrubbed_loss or 0.0, 0.0), None
    row.scrubbed_to = revision
    return garbage


def _knows(row: DepositRow, other: DepositRow) -> bool:
    """Whether the deposit's module in use still knows the classes of another one, which has a module or had one.

    Besides those of later deposits, it knows those whose modules its own job made.
    """
    if row.scrubbed_object_id is None or other.revision is None or other.kind == Kind.SAMPLES or other.id == row.id:
        return False
    assert row.made_at_revision is not None
    assert other.made_at_revision is not None
    return other.made_at_revision > (row.made_at_revision - 1 if row.scrubbed_to is None else row.scrubbed_to)
