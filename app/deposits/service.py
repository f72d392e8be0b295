"""Deposits as their users see them: request, follow, cancel; and their rows, for the rooms above."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import changes, new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.datasets import service as datasets
from app.datasets.service import DatasetInUse, Purpose
from app.deposits import jobs
from app.deposits.jobs import JOBS, config_of
from app.deposits.ranges import demand_settings
from app.deposits.schemas import DepositCreate
from app.deposits.tables import UNFINISHED as UNFINISHED
from app.deposits.tables import DepositClassRow, State
from app.deposits.tables import DepositRow as DepositRow
from app.jobs import checkpoints
from app.jobs.machine import AlreadyEnded
from app.registry import service as registry
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow, Requester
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault
from lirf_core.enumeration import enumerated


@dataclass(frozen=True)
class StoredModule:
    """A deposit module in the vault, and the class indices it answers for."""

    stored: StoredObject
    classes: tuple[int, ...]


class UnknownDeposit(Problem):
    """No deposit has this id. `GET /v1/models/{name}/deposits` lists a model's deposits."""

    status, slug, title = 404, "unknown-deposit", "There is no such deposit"


class ClassesDiffer(Problem):
    """`classes` names other classes than the deposit set has. Upload images of exactly these classes."""

    status, slug, title = 422, "classes-differ", "The deposit set and the request name different classes"


class NothingPreserved(Problem):
    """The deposit would leave the model without a class to answer. Keep at least one class."""

    status, slug, title = 422, "nothing-preserved", "No class would be left"


class AlreadyDeposited(Problem):
    """A class is deposited already, or a deposit of it has not ended. Leave the class out, or wait."""

    status, slug, title = 409, "already-deposited", "A class is already deposited"


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


def request(session: Session, actor: Actor, model_name: str, body: DepositCreate) -> DepositRow | ApprovalRow:
    """Queue a deposit. If the model needs a second person, return a request for approval instead.

    Raises `SettingsNeedAdministrator`, `UnknownClass`, `ClassesDiffer`, `AlreadyDeposited`, `Restored`,
    `NothingPreserved`, `DatasetInUse`.
    """
    demand_settings(actor, config_of(body.config.model_dump()))
    with session.begin():
        model = registry.get_ready(session, model_name)
        checked = _checked(session, model, body)
        if model.needs_second_person:
            wish = checked.model_dump(mode="json", exclude={"reason"})
            return second_person.request_approval(session, actor, model.id, model.name, Act.DEPOSIT, wish, body.reason)
        return _queue(session, actor, model, checked, Requester.of(actor))


def request_approved(session: Session, actor: Actor, approval_id: str) -> ApprovalRow:
    """Queue a deposit that another person asked for. Raises what `request` and `second_person.approve` do."""
    with session.begin():
        approval = second_person.get(session, approval_id)
        model = registry.by_id(session, approval.model_id)
        checked = _checked(session, model, DepositCreate(**approval.wish, reason=approval.reason))
        approval = second_person.approve(session, actor, approval_id, Act.DEPOSIT, model.name)
        approval.result_id = _queue(session, actor, model, checked, Requester.of(approval)).id
    return approval


def _checked(session: Session, model: registry.ModelRow, body: DepositCreate) -> DepositCreate:
    """In the caller's transaction, under the model's lock: the request with the classes and the sets that it uses."""
    registry.lock_present(session, model.id)
    dataset = datasets.get_usable(session, model.id, body.dataset_id, Purpose.DEPOSIT)
    names = sorted(dataset.counts)
    indices = registry.class_indices(model, names)
    if body.classes is not None and registry.class_indices(model, body.classes) != indices:
        raise ClassesDiffer(
            f"The deposit set has images of {_quoted(names)}, but the request names "
            f"{_quoted(sorted(body.classes))}. Upload a deposit set with images of exactly the classes to forget."
        )
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
    return body.model_copy(update={"classes": names, "evaluation_set_id": evaluation_id})


def _queue(
    session: Session, actor: Actor, model: registry.ModelRow, checked: DepositCreate, requester: Requester
) -> DepositRow:
    """In the caller's transaction. checked: what `_checked` returned."""
    row = DepositRow(
        id=new_id(),
        model_id=model.id,
        state=State.QUEUED,
        dataset_id=checked.dataset_id,
        evaluation_set_id=checked.evaluation_set_id,
        config=checked.config.model_dump(),
        reason=checked.reason,
        keeps_dataset=checked.keep_dataset,
        wants_evidence=checked.evidence,
        created_at=now(),
        created_by=requester.name,
        rung_at=now(),
    )
    names = checked.classes or []
    session.add(row)
    session.flush()
    indices = registry.class_indices(model, names)
    session.add_all(DepositClassRow(deposit_id=row.id, class_index=index) for index in indices)
    counts = datasets.get(session, row.dataset_id).counts
    details = {"classes": names, "images": counts, "config": row.config}
    if requester.key_id != actor.key_id:
        details |= requester.details()
    audit.record(
        session,
        actor.name,
        "deposit.requested",
        model=model.name,
        subject=row.id,
        reason=checked.reason,
        details=details,
    )
    return row


def release_request(session: Session, actor: str, approval: ApprovalRow) -> list[str]:
    """In the caller's transaction, under the model's lock: give up what a request that was not approved needed.

    Its deposit set is shredded, as when a deposit ends, unless the request would have kept it, or an unfinished deposit
    or another request that waits needs it. Returns the vault names to remove after the transaction.
    """
    if approval.act != Act.DEPOSIT or approval.wish.get("keep_dataset"):
        return []
    dataset_id: str = approval.wish["dataset_id"]
    waiting = second_person.waiting(session, approval.model_id, Act.DEPOSIT)
    if uses_dataset(session, dataset_id) or any(other.wish["dataset_id"] == dataset_id for other in waiting):
        return []
    return datasets.shred(session, actor, dataset_id)


def uses_dataset(session: Session, dataset_id: str) -> bool:
    """Whether an unfinished deposit needs the data set, as its deposit set or as its evaluation set."""
    is_needed = sa.or_(DepositRow.dataset_id == dataset_id, DepositRow.evaluation_set_id == dataset_id)
    query = sa.select(DepositRow.id).where(is_needed, DepositRow.state.in_(UNFINISHED))
    return session.scalar(query.limit(1)) is not None


def _check_classes(session: Session, model: registry.ModelRow, indices: list[int]) -> None:
    """Raises `Restored`, `AlreadyDeposited`, `NothingPreserved`."""
    names = model.class_names
    held = registry.deposited(session, model.id)
    if taken := sorted(held.keys() & set(indices)):
        for row in of_ids(session, [held[index] for index in taken]).values():
            demand_not_restored(row)
        raise AlreadyDeposited(
            f"{_quoted([names[i] for i in taken])} of model '{model.name}' {_are(taken)} already deposited."
        )
    pending = pending_classes(session, model.id).keys()
    if taken := sorted(pending & set(indices)):
        raise AlreadyDeposited(
            f"{_quoted([names[i] for i in taken])} of model '{model.name}' {_are(taken)} in a deposit that has not "
            "ended. Wait for it or cancel it."
        )
    if len(held.keys() | pending | set(indices)) == len(names):
        raise NothingPreserved(
            f"After this deposit, model '{model.name}' would have no class left to answer with. Leave at least one, or "
            f"remove the model (`lirf remove {model.name}`)."
        )


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
    return session.scalars(sa.select(DepositRow).where(*is_deposited).order_by(DepositRow.id)).all()


def get(session: Session, deposit_id: str) -> DepositRow:
    """Raises `UnknownDeposit`."""
    row = session.get(DepositRow, deposit_id)
    if row is None:
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
    """The deposit that made this revision of a model."""
    return session.scalar(sa.select(DepositRow).where(DepositRow.model_id == model_id, DepositRow.revision == number))


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
    """In the caller's transaction, which records it: shred the module and every checkpoint made from it.

    Returns the vault names to remove after the transaction.
    """
    assert row.module_object_id is not None
    row.state, row.purged_at, row.purged_by, row.purge_reason = State.PURGED, now(), actor.name, reason
    session.flush()
    return [vaults.shred(session, row.module_object_id), *checkpoints.delete_part(session, row.id)]


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


def _quoted(names: Sequence[str]) -> str:
    return enumerated([f"'{name}'" for name in names])


def _are(items: Sequence[int]) -> str:
    return "is" if len(items) == 1 else "are"
