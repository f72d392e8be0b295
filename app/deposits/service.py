"""Deposits as their users see them: request, follow, cancel."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import changes, count_by_state, new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.datasets import service as datasets
from app.datasets.service import DatasetInUse, Purpose
from app.deposits import checkpoints, jobs
from app.deposits.schemas import DepositCreate
from app.deposits.tables import UNFINISHED as UNFINISHED
from app.deposits.tables import DepositClassRow, State
from app.deposits.tables import DepositRow as DepositRow
from app.registry import service as registry
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault


@dataclass(frozen=True)
class StoredModule:
    """A deposit module in the vault, and the class indices it answers for."""

    stored: StoredObject
    classes: tuple[int, ...]


class UnknownDeposit(Problem):
    status, slug, title = 404, "unknown-deposit", "There is no such deposit"


class ClassesDiffer(Problem):
    status, slug, title = 422, "classes-differ", "The deposit set has other classes than the request"


class NothingPreserved(Problem):
    status, slug, title = 422, "nothing-preserved", "No class would be left"


class AlreadyDeposited(Problem):
    status, slug, title = 409, "already-deposited", "A class is deposited already"


class NotCancellable(Problem):
    status, slug, title = 409, "not-cancellable", "The deposit has ended"


class NotDeposited(Problem):
    status, slug, title = 409, "not-deposited", "The deposit holds no deposit module"


class Restored(Problem):
    status, slug, title = 409, "restored", "The classes are switched back on for good"


class ModulePurged(Problem):
    status, slug, title = 410, "module-purged", "The deposit module was destroyed"


def request(session: Session, actor: Actor, model_name: str, body: DepositCreate) -> DepositRow:
    """Queues a deposit.

    Raises `UnknownClass`, `ClassesDiffer`, `AlreadyDeposited`, `Restored`, `NothingPreserved`, `DatasetInUse`.
    """
    with session.begin():
        model = registry.get_ready(session, model_name)
        registry.lock(session, model.id)
        dataset = datasets.get_usable(session, model.id, body.dataset_id, Purpose.DEPOSIT)
        found = sorted(dataset.counts)
        if body.classes is not None:
            registry.class_indices(model, body.classes)
            if set(body.classes) != set(found):
                raise ClassesDiffer(
                    f"the deposit set has images of {_named(found)}, the request names {_named(sorted(body.classes))}; "
                    "a deposit set holds images of the classes to forget and of no other: upload one for these."
                )
        indices = registry.class_indices(model, found)
        _check_classes(session, model, indices)
        if uses_dataset(session, dataset.id):
            raise DatasetInUse(
                f"An unfinished deposit uses data set '{dataset.id}'. Wait for that deposit to end, "
                "or upload the images again."
            )
        if body.evaluation_set_id:
            evaluation_id: str | None = datasets.get_usable(
                session, model.id, body.evaluation_set_id, Purpose.EVALUATION
            ).id
        else:
            newest = datasets.newest_evaluation_set(session, model.id)
            evaluation_id = newest.id if newest else None
        row = DepositRow(
            id=new_id(),
            model_id=model.id,
            state=State.QUEUED,
            dataset_id=dataset.id,
            evaluation_set_id=evaluation_id,
            config=body.config.model_dump(),
            reason=body.reason,
            keeps_dataset=body.keep_dataset,
            wants_evidence=body.evidence,
            created_at=now(),
            created_by=actor.name,
            rung_at=now(),
        )
        session.add(row)
        session.flush()
        session.add_all(DepositClassRow(deposit_id=row.id, class_index=index) for index in indices)
        audit.record(
            session,
            actor.name,
            "deposit.requested",
            model=model.name,
            subject=row.id,
            reason=body.reason,
            details={"classes": found, "images": dataset.counts, "config": row.config},
        )
    return row


def uses_dataset(session: Session, dataset_id: str) -> bool:
    """Whether an unfinished deposit needs the data set, as its deposit set or as its evaluation set."""
    is_needed = sa.or_(DepositRow.dataset_id == dataset_id, DepositRow.evaluation_set_id == dataset_id)
    query = sa.select(DepositRow.id).where(is_needed, DepositRow.state.in_(UNFINISHED))
    return session.scalar(query.limit(1)) is not None


def _check_classes(session: Session, model: registry.ModelRow, indices: list[int]) -> None:
    """None deposited, none on the way, and some left."""
    names = model.class_names
    held = registry.deposited(session, model.id)
    if taken := sorted(held.keys() & set(indices)):
        for row in of_ids(session, [held[index] for index in taken]).values():
            demand_not_restored(row)
        raise AlreadyDeposited(
            f"{_named([names[i] for i in taken])} of model '{model.name}' {_are(taken)} deposited already."
        )
    pending = pending_classes(session, model.id).keys()
    if taken := sorted(pending & set(indices)):
        raise AlreadyDeposited(
            f"{_named([names[i] for i in taken])} of model '{model.name}' {_are(taken)} in a deposit that has not "
            "ended; wait for it or cancel it."
        )
    if len(held.keys() | pending | set(indices)) == len(names):
        raise NothingPreserved(
            f"after this deposit model '{model.name}' would have no class left to answer with; "
            "leave at least one, or take the model out of service."
        )


def cancel(session: Session, vault: Vault, actor: Actor, deposit_id: str) -> DepositRow:
    """Stops a queued deposit at once and a running one at its next step. Raises `NotCancellable`."""
    garbage: list[str] = []
    with session.begin():
        model, row = locked(session, deposit_id)
        if row.state == State.QUEUED:
            garbage = jobs.end_queued(session, row, actor.name)
        asked = changes(
            session,
            sa.update(DepositRow)
            .where(
                DepositRow.id == row.id, DepositRow.state == State.RUNNING, DepositRow.is_cancel_requested.is_(False)
            )
            .values(is_cancel_requested=True),
        )
        session.refresh(row)
        if asked:
            audit.record(session, actor.name, "deposit.cancel_requested", model=model.name, subject=row.id)
        elif not row.is_cancel_requested or row.state not in (State.CANCELLED, State.RUNNING):
            raise NotCancellable(
                f"deposit '{deposit_id}' is {row.state}; only a queued or running deposit is cancelled."
            )
    vault.remove(garbage)
    return row


def get(session: Session, deposit_id: str) -> DepositRow:
    """Raises `UnknownDeposit`."""
    row = session.get(DepositRow, deposit_id)
    if row is None:
        raise UnknownDeposit(f"there is no deposit '{deposit_id[:64]}'; `GET /v1/models/NAME/deposits` lists them.")
    return row


def locked(session: Session, deposit_id: str) -> tuple[registry.ModelRow, DepositRow]:
    """A deposit and its model, as they are now that nothing else changes them. Raises `UnknownDeposit`."""
    row = get(session, deposit_id)
    model = registry.lock(session, row.model_id)
    session.refresh(row)
    return model, row


def list_of_model(session: Session, model_name: str, page: PageRequest) -> tuple[Sequence[DepositRow], str | None]:
    model = registry.get(session, model_name)
    return newest_first(session, sa.select(DepositRow).where(DepositRow.model_id == model.id), DepositRow.id, page)


def of_ids(session: Session, ids: Sequence[str]) -> dict[str, DepositRow]:
    return {row.id: row for row in session.scalars(sa.select(DepositRow).where(DepositRow.id.in_(ids)))}


def class_names(session: Session, row: DepositRow) -> list[str]:
    """The classes of a deposit, in the order of the model's outputs."""
    return names_of(session, [row])[row.id]


def class_indices(session: Session, row: DepositRow) -> list[int]:
    """As `class_names`, by their number among the model's outputs."""
    return jobs.class_indices(session, [row.id])[row.id]


def names_of(session: Session, rows: Collection[DepositRow]) -> dict[str, list[str]]:
    """As `class_names`, by the id of each deposit."""
    indices = jobs.class_indices(session, [row.id for row in rows])
    models = registry.by_ids(session, (row.model_id for row in rows))
    return {row.id: [models[row.model_id].class_names[i] for i in indices[row.id]] for row in rows}


def counts(session: Session) -> dict[str, int]:
    """How many deposits are in each state."""
    return count_by_state(session, DepositRow.state, State)


def oldest_queued(session: Session) -> datetime | None:
    """Since when the oldest queued deposit waits."""
    return session.scalar(sa.select(sa.func.min(DepositRow.created_at)).where(DepositRow.state == State.QUEUED))


def pending_classes(session: Session, model_id: str) -> dict[int, DepositRow]:
    """Classes of deposits that have not ended."""
    query = (
        sa.select(DepositClassRow.class_index, DepositRow)
        .join(DepositRow, DepositRow.id == DepositClassRow.deposit_id)
        .where(DepositRow.model_id == model_id, DepositRow.state.in_(UNFINISHED))
    )
    return dict(session.execute(query).all())


def module(session: Session, row: DepositRow) -> StoredObject:
    """The deposit module in the vault. Raises `NotDeposited`, `ModulePurged`."""
    return vaults.stored(session, _module_object_id(row))


def modules(session: Session, deposit_ids: Sequence[str]) -> list[StoredModule]:
    """The modules of finished deposits, in the order of the ids, with three reads. Raises what `module` does."""
    rows = of_ids(session, deposit_ids)
    sealed = vaults.stored_all(session, [_module_object_id(row) for row in rows.values()])
    classes = jobs.class_indices(session, deposit_ids)
    return [StoredModule(sealed[_module_object_id(rows[i])], tuple(classes[i])) for i in deposit_ids]


def _module_object_id(row: DepositRow) -> str:
    if row.purged_at is not None:
        raise ModulePurged(
            f"{row.purged_by} purged deposit '{row.id}' at {row.purged_at:%Y-%m-%d %H:%M:%S} UTC; its classes stay "
            "forgotten. Only training the model anew brings them back."
        )
    if row.module_object_id is None:
        raise NotDeposited(f"deposit '{row.id}' is {row.state}; only a finished deposit holds a module.")
    return row.module_object_id


def purge_module(session: Session, actor: Actor, row: DepositRow, reason: str) -> list[str]:
    """In the caller's transaction, which records it: shreds the module, and what a running deposit has of it.

    Returns the vault names to remove after it.
    """
    assert row.module_object_id is not None
    row.state, row.purged_at, row.purged_by, row.purge_reason = State.PURGED, now(), actor.name, reason
    session.flush()
    return [vaults.shred(session, row.module_object_id), *checkpoints.forget_scrubs(session, row.id)]


def wanting_evidence(session: Session) -> list[str]:
    """Deposits that were made and are to be examined, oldest first."""
    made = DepositRow.wants_evidence, DepositRow.revision.is_not(None)
    return list(session.scalars(sa.select(DepositRow.id).where(*made).order_by(DepositRow.id).limit(1000)))


def take_wanting_evidence(session: Session, deposit_id: str) -> DepositRow | None:
    """In the caller's transaction: one of `wanting_evidence`; it is given once."""
    wanted = sa.update(DepositRow).where(DepositRow.id == deposit_id, DepositRow.wants_evidence)
    return session.get(DepositRow, deposit_id) if changes(session, wanted.values(wants_evidence=False)) else None


def restored_ids(session: Session, model_id: str) -> list[str]:
    """Deposits of a model whose classes answer without a withdrawal."""
    is_restored = DepositRow.model_id == model_id, DepositRow.restored_at.is_not(None)
    return list(session.scalars(sa.select(DepositRow.id).where(*is_restored).order_by(DepositRow.id)))


def demand_not_restored(row: DepositRow) -> None:
    """Raises `Restored`."""
    if row.restored_at is not None:
        raise Restored(
            f"{row.restored_by} restored deposit '{row.id}' at {row.restored_at:%Y-%m-%d %H:%M:%S} UTC: its classes "
            f"answer without a withdrawal. `DELETE /v1/deposits/{row.id}/restoration` deposits them again at once."
        )


def note_restoration(session: Session, row: DepositRow, by: str | None, reason: str | None) -> None:
    """In the caller's transaction, which records it; without `by`, that the restoration has ended."""
    row.restored_at, row.restored_by, row.restore_reason = now() if by else None, by, reason
    session.flush()


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:10]) + (f", ... ({len(names)})" if len(names) > 10 else "")


def _are(items: Sequence[int]) -> str:
    return "is" if len(items) == 1 else "are"
