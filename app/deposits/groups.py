"""The deposits that a job makes: one for each group of its classes, each withdrawn and purged by itself.

They are trained together. Until the job has ended, its own deposit holds the classes of all groups.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.deposits import scrubbed
from app.deposits.losses import Losses
from app.deposits.scrubbed import ScrubbedModule
from app.deposits.tables import DepositClassRow, DepositRow
from app.vault import service as vaults
from app.vault.service import StoredObject

# The columns that all deposits of one job share.
_COMMON = (
    "model_id",
    "kind",
    "state",
    "dataset_id",
    "evaluation_set_id",
    "preserved_set_id",
    "config",
    "reason",
    "keeps_dataset",
    "keeps_preserved_set",
    "wants_evidence",
    "is_batch_halved",
    "created_at",
    "created_by",
    "rung_at",
    "started_at",
    "finished_at",
    "attempts",
    "progress",
)


@dataclass(frozen=True)
class MadeDeposit:
    """A deposit that a job made: its classes, its module in the vault, and what was measured of it.

    scrubbed: the module without the classes of the job's other groups; None if there are none. `metrics`: None if there
    was no evaluation set. `losses`: what the deposit costs, which decides whether it may be published.
    """

    id: str
    classes: Sequence[int]
    module: StoredObject
    scrubbed: ScrubbedModule | None
    metrics: dict[str, Any] | None
    losses: Losses


def planned(session: Session, row: DepositRow) -> dict[str, list[int]]:
    """The classes of each deposit that an unfinished job is to make, by the deposit's id; its own first."""
    groups: dict[str, list[int]] = {row.id: []}
    for one in session.scalars(_classes_of([row.id])):
        groups.setdefault(one.group_id or row.id, []).append(one.class_index)
    return groups


def split(session: Session, row: DepositRow, made: Sequence[MadeDeposit]) -> list[DepositRow]:
    """In the transaction that publishes the job `row`: give each group a deposit of its own. Returns them, `row` first.

    They have no revision yet.
    """
    rows = [row]
    for one in made[1:]:
        common = {name: getattr(row, name) for name in _COMMON}
        rows.append(DepositRow(id=one.id, made_with=row.id, **common))
    session.add_all(rows[1:])
    session.flush()
    for other in rows[1:]:
        of_group = DepositClassRow.deposit_id == row.id, DepositClassRow.group_id == other.id
        session.execute(sa.update(DepositClassRow).where(*of_group).values(deposit_id=other.id, group_id=None))
    for one, other in zip(made, rows, strict=True):
        _take(session, other, one)
    session.flush()
    return rows


def make_anew(session: Session, made: Sequence[MadeDeposit], revision: int) -> list[str]:
    """In the transaction that publishes a rebase as this revision: put these modules in the place of the deposits' own.

    Returns the vault names to remove after it.
    """
    garbage = []
    for one in made:
        row = session.get_one(DepositRow, one.id)
        replaced = [object_id for object_id in (row.module_object_id, row.scrubbed_object_id) if object_id]
        _take(session, row, one)
        row.module_revision, row.scrubbed_to, row.replaced_loss = revision, None, 0.0
        row.scrubbed_object_id = row.scrubbed_loss = None
        session.flush()
        garbage += [vaults.shred(session, object_id) for object_id in replaced]
        garbage += scrubbed.keep(session, row, one.scrubbed) if one.scrubbed else []
    return garbage


def _take(session: Session, row: DepositRow, made: MadeDeposit) -> None:
    row.metrics, row.losses = made.metrics, made.losses.as_json()
    row.module_object_id, row.module_bytes = vaults.record(session, made.module), made.module.plaintext_bytes


def of_job(session: Session, rows: Collection[DepositRow]) -> dict[str, dict[str, list[int]]]:
    """What the job of each of these deposits makes: the classes of each deposit of the job, by its id.

    The key is the id of the deposit that was asked for. Deposits that are alone in their job are left out.
    """
    jobs = {row.id: row.made_with or row.id for row in rows}
    others = sa.select(DepositRow.id, DepositRow.made_with).where(DepositRow.made_with.in_(set(jobs.values())))
    job_of = {deposit_id: job for deposit_id, job in session.execute(others) if job}
    groups: dict[str, dict[str, list[int]]] = {}
    for one in session.scalars(_classes_of({*jobs.values(), *job_of})):
        of_job = groups.setdefault(job_of.get(one.deposit_id, one.deposit_id), {})
        of_job.setdefault(one.group_id or one.deposit_id, []).append(one.class_index)
    found = {row_id: dict(sorted(groups.get(job, {}).items())) for row_id, job in jobs.items()}
    return {row_id: of_job for row_id, of_job in found.items() if len(of_job) > 1}


def _classes_of(deposit_ids: Collection[str]) -> sa.Select[DepositClassRow]:
    of_deposits = sa.select(DepositClassRow).where(DepositClassRow.deposit_id.in_(deposit_ids))
    return of_deposits.order_by(DepositClassRow.class_index)
