"""Deposits as their users see them: follow, cancel; and their rows, for the rooms above. `requests` makes them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import changes, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.deposits import jobs
from app.deposits.jobs import JOBS
from app.deposits.scrubbed import few_columns
from app.deposits.tables import UNFINISHED as UNFINISHED
from app.deposits.tables import DepositClassRow, State
from app.deposits.tables import DepositRow as DepositRow
from app.deposits.tables import Kind as Kind
from app.jobs import checkpoints
from app.jobs.machine import AlreadyEnded
from app.registry import service as registry
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault


@dataclass(frozen=True)
class StoredModule:
    """A deposit module in the vault, and the class indices it answers for."""

    stored: StoredObject
    classes: tuple[int, ...]


class UnknownDeposit(Problem):
    """No deposit has this id. `GET /v1/models/{name}/deposits` lists a model's deposits."""

    status, slug, title = 404, "unknown-deposit", "There is no such deposit"


class NotCancellable(Problem):
    """The deposit has ended. Only a queued or running deposit can be cancelled."""

    status, slug, title = 409, "not-cancellable", "The deposit has ended"


class NotDeposited(Problem):
    """The deposit has not finished, so it has no deposit module. Wait until its state is `deposited`."""

    status, slug, title = 409, "not-deposited", "The deposit has no deposit module"


class Restored(Problem):
    """The deposit is restored. End the restoration first: `DELETE /v1/deposits/{id}/restoration`."""

    status, slug, title = 409, "restored", "The classes are restored"


class ModulePurged(Problem):
    """The deposit was purged. Nothing brings its classes back, except training the model anew."""

    status, slug, title = 410, "module-purged", "The deposit module was destroyed"


def uses_dataset(session: Session, dataset_id: str) -> bool:
    """Whether an unfinished deposit needs the data set, whatever for."""
    needed = DepositRow.dataset_id, DepositRow.evaluation_set_id, DepositRow.preserved_set_id
    is_needed = sa.or_(*(column == dataset_id for column in needed))
    query = sa.select(DepositRow.id).where(is_needed, DepositRow.state.in_(UNFINISHED))
    return session.scalar(query.limit(1)) is not None


def needs_dataset(session: Session, dataset_id: str) -> bool:
    """Whether an unfinished deposit uses the data set, or an outstanding one keeps it."""
    keeps = DepositRow.dataset_id == dataset_id, DepositRow.keeps_dataset, DepositRow.state == State.DEPOSITED
    is_kept = session.scalar(sa.select(DepositRow.id).where(*keeps).limit(1)) is not None
    return is_kept or uses_dataset(session, dataset_id)


def models_with_set(dataset_id: str) -> sa.Select[str]:
    """A query for the ids of the models of which an outstanding deposit learnt from this deposit set."""
    is_outstanding = DepositRow.dataset_id == dataset_id, DepositRow.state == State.DEPOSITED
    return sa.select(DepositRow.model_id).where(*is_outstanding)


def cancel(session: Session, vault: Vault, actor: Actor, deposit_id: str) -> DepositRow:
    """Stop a queued deposit at once and a running one at its next step. Raises `NotCancellable`."""
    with session.begin():
        _, row = locked(session, deposit_id)
        try:
            garbage = JOBS.cancel(session, row, actor.name)
        except AlreadyEnded:
            if row.state != State.CANCELLED:
                raise NotCancellable(
                    f"Deposit '{deposit_id}' is {row.state}. Only a queued or running deposit can be cancelled."
                ) from None
            garbage = []
    vault.remove(garbage)
    return row


def cancel_all(session: Session, actor: Actor, model_id: str) -> list[str]:
    """In the caller's transaction: cancel every unfinished deposit of a model, and delete their checkpoints.

    Returns the vault names to remove after it.
    """
    garbage = JOBS.cancel_all(session, actor.name, DepositRow.model_id == model_id)
    return garbage + checkpoints.delete(session, ids_of_model(model_id))


def ids_of_model(model_id: str) -> sa.Select[str]:
    """A query for the ids of a model's deposits."""
    return sa.select(DepositRow.id).where(DepositRow.model_id == model_id)


def ids_of_models(model_ids: sa.Select[str]) -> sa.Select[str]:
    """A query for the ids of these models' deposits."""
    return sa.select(DepositRow.id).where(DepositRow.model_id.in_(model_ids))


def with_modules(session: Session, model_id: str) -> Sequence[DepositRow]:
    """The deposits of a model that have a module, oldest first."""
    is_deposited = DepositRow.model_id == model_id, DepositRow.state == State.DEPOSITED
    return session.scalars(few_columns().where(*is_deposited).order_by(DepositRow.revision, DepositRow.id)).all()


def get(session: Session, deposit_id: str) -> DepositRow:
    """Raises `UnknownDeposit`."""
    row = session.get(DepositRow, deposit_id)
    if row is None:
        if job_id := session.scalar(
            sa.select(DepositClassRow.deposit_id).where(DepositClassRow.group_id == deposit_id).limit(1)
        ):
            job = session.get_one(DepositRow, job_id)
            raise UnknownDeposit(
                f"There is no deposit '{deposit_id}': the job of deposit '{job_id}', which makes it, is {job.state}. "
                f"`GET /v1/deposits/{job_id}` says more."
            )
        raise UnknownDeposit(
            f"There is no deposit '{deposit_id[:64]}'. `GET /v1/models/NAME/deposits` lists a model's deposits."
        )
    return row


def locked(session: Session, deposit_id: str) -> tuple[registry.ModelRow, DepositRow]:
    """A deposit and its model, read again under the model's lock. Raises `UnknownDeposit`."""
    row = get(session, deposit_id)
    model = registry.lock(session, row.model_id)
    session.refresh(row)
    return model, row


def of_revision(session: Session, model_id: str, number: int) -> DepositRow | None:
    """A deposit that made this revision of a model or, if a rebase did, the newest one whose module it made."""
    is_of_revision = DepositRow.model_id == model_id, DepositRow.made_at_revision == number
    of_revision = sa.select(DepositRow).where(*is_of_revision)
    is_outstanding, is_of_job = DepositRow.state == State.DEPOSITED, DepositRow.made_with.is_(None)
    order = is_outstanding.desc(), is_of_job.desc(), DepositRow.revision.desc(), DepositRow.id.desc()
    return session.scalar(of_revision.order_by(*order).limit(1))


def models_at_a_deposits_revision(session: Session, model_ids: Sequence[str]) -> set[str]:
    """Those of the models whose revision in service was made by a deposit or a rebase."""
    is_in_service = sa.and_(
        registry.ModelRow.id == DepositRow.model_id, registry.ModelRow.revision == DepositRow.made_at_revision
    )
    query = sa.select(DepositRow.model_id).join(registry.ModelRow, is_in_service)
    return set(session.scalars(query.where(DepositRow.model_id.in_(model_ids))))


def list_of_model(session: Session, model_name: str, page: PageRequest) -> tuple[Sequence[DepositRow], str | None]:
    model = registry.get(session, model_name)
    return newest_first(session, sa.select(DepositRow).where(DepositRow.model_id == model.id), DepositRow.id, page)


def of_ids(session: Session, ids: Sequence[str]) -> dict[str, DepositRow]:
    return {row.id: row for row in session.scalars(sa.select(DepositRow).where(DepositRow.id.in_(ids)))}


def class_names(session: Session, row: DepositRow) -> list[str]:
    """The classes of a deposit, in the order of the model's outputs."""
    return names_of(session, [row])[row.id]


def class_indices(session: Session, row: DepositRow) -> list[int]:
    """The classes of a deposit as indices of the model's outputs."""
    return jobs.class_indices(session, [row.id])[row.id]


def names_of(session: Session, rows: Collection[DepositRow]) -> dict[str, list[str]]:
    """`class_names` of several deposits, by id."""
    indices = jobs.class_indices(session, [row.id for row in rows])
    models = registry.by_ids(session, (row.model_id for row in rows))
    return {row.id: [models[row.model_id].class_names[i] for i in indices[row.id]] for row in rows}


def samples_of_classes(session: Session, model_id: str) -> dict[int, str]:
    """The outstanding deposit of single images of each class that has one, by class index."""
    query = (
        sa.select(DepositClassRow.class_index, DepositRow.id)
        .join(DepositRow, DepositRow.id == DepositClassRow.deposit_id)
        .where(DepositRow.model_id == model_id, DepositRow.kind == Kind.SAMPLES, DepositRow.state == State.DEPOSITED)
    )
    return dict(session.execute(query).all())


def pending_classes(session: Session, model_id: str) -> dict[int, DepositRow]:
    """The classes of deposits that have not ended, by index."""
    query = (
        sa.select(DepositClassRow.class_index, DepositRow)
        .join(DepositRow, DepositRow.id == DepositClassRow.deposit_id)
        .where(DepositRow.model_id == model_id, DepositRow.state.in_(UNFINISHED))
    )
    return dict(session.execute(query).all())


def module(session: Session, row: DepositRow) -> StoredObject:
    """The deposit module in the vault. Raises `NotDeposited`, `ModulePurged`."""
    return vaults.stored_object(session, _module_object_id(row))


def outstanding(session: Session, model_id: str) -> list[str]:
    """The ids of the model's deposits that still have their module, oldest first."""
    return [older.deposit_id for older in jobs.stored_modules(session, model_id)]


def unfinished_ids(session: Session, model_id: str) -> list[str]:
    """The ids of the model's deposits that have not ended, oldest first."""
    unfinished = DepositRow.model_id == model_id, DepositRow.state.in_(UNFINISHED)
    return list(session.scalars(sa.select(DepositRow.id).where(*unfinished).order_by(DepositRow.id)))


def modules(session: Session, deposit_ids: Sequence[str]) -> list[StoredModule]:
    """The modules of finished deposits, in the order of the ids, in three reads. Raises what `module` does."""
    rows = of_ids(session, deposit_ids)
    sealed = vaults.stored_objects(session, [_module_object_id(row) for row in rows.values()])
    classes = jobs.class_indices(session, deposit_ids)
    return [StoredModule(sealed[_module_object_id(rows[i])], tuple(classes[i])) for i in deposit_ids]


def _module_object_id(row: DepositRow) -> str:
    if row.purged_at is not None:
        raise ModulePurged(
            f"{row.purged_by} purged deposit '{row.id}' at {row.purged_at:%Y-%m-%d %H:%M:%S} UTC. Only training "
            "the model "
            "again brings its classes back."
        )
    if row.module_object_id is None:
        raise NotDeposited(f"Deposit '{row.id}' is {row.state}. Only a finished deposit has a module.")
    return row.module_object_id


def purge_module(session: Session, actor: Actor, row: DepositRow, reason: str) -> list[str]:
    """In the caller's transaction, which records it: shred the module, its scrubbed one, and checkpoints made of them.

    Returns the vault names to remove after the transaction.
    """
    assert row.module_object_id is not None
    row.state, row.purged_at, row.purged_by, row.purge_reason = State.PURGED, now(), actor.name, reason
    session.flush()
    modules = [one for one in (row.module_object_id, row.scrubbed_object_id) if one]
    row.scrubbed_object_id = row.scrubbed_loss = None
    session.flush()
    return [*(vaults.shred(session, one) for one in modules), *checkpoints.delete_part(session, row.id)]


def wanting_evidence(session: Session) -> list[str]:
    """Finished deposits that wait for their examination to be queued, oldest first."""
    is_wanting = DepositRow.wants_evidence, DepositRow.revision.is_not(None)
    return list(session.scalars(sa.select(DepositRow.id).where(*is_wanting).order_by(DepositRow.id).limit(1000)))


def take_wanting_evidence(session: Session, deposit_id: str) -> DepositRow | None:
    """In the caller's transaction: take one of `wanting_evidence`. None: somebody else took it."""
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
            f"{row.restored_by} restored deposit '{row.id}' at {row.restored_at:%Y-%m-%d %H:%M:%S} UTC, so its classes "
            f"answer without a withdrawal. `DELETE /v1/deposits/{row.id}/restoration` deposits them again at once."
        )


def end_restoration(session: Session, actor: Actor, model: registry.ModelRow, row: DepositRow) -> None:
    """In the caller's transaction, under the model's lock: only a withdrawal shows the classes from now on."""
    note_restoration(session, row, None, None)
    registry.bump_generation(session, model.id)
    details = {"classes": class_names(session, row)}
    audit.record(session, actor.name, "deposit.restoration_ended", model=model.name, subject=row.id, details=details)


def note_restoration(session: Session, row: DepositRow, by: str | None, reason: str | None) -> None:
    """In the caller's transaction, which records it. by: None if the restoration has ended."""
    row.restored_at, row.restored_by, row.restore_reason = now() if by else None, by, reason
    session.flush()
