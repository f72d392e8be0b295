"""Rebases as their users see them: request, list, read, cancel."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.datasets import service as datasets
from app.datasets.service import DatasetInUse, Purpose
from app.deposits import service as deposits
from app.deposits.jobs import config_of
from app.deposits.ranges import demand_settings
from app.deposits.schemas import DepositConfigIn
from app.deposits.service import DepositRow
from app.hardenings.service import uses_dataset as hardening_uses
from app.jobs.machine import AlreadyEnded
from app.jobs.mixin import UNFINISHED
from app.rebases.jobs import JOBS, RebaseNotPossible, demand_images, demand_possible
from app.rebases.schemas import RebaseCreate
from app.rebases.tables import RebaseRow as RebaseRow
from app.rebases.tables import State as State
from app.registry import service as registry
from app.registry.service import ModelRow
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow, Requester
from app.vault.service import Vault
from lirf_core.enumeration import enumerated


class UnknownRebase(Problem):
    """No rebase has this id. `GET /v1/models/{name}/rebases` lists a model's rebases."""

    status, slug, title = 404, "unknown-rebase", "There is no such rebase"


class RebaseUnfinished(Problem):
    """A rebase of this model has not ended. Follow it, or cancel it."""

    status, slug, title = 409, "rebase-unfinished", "A rebase has not ended"


class RebaseEnded(Problem):
    """The rebase has ended. Only one that is queued or running can be cancelled."""

    status, slug, title = 409, "rebase-ended", "The rebase has ended"


def request(session: Session, actor: Actor, model_name: str, body: RebaseCreate) -> RebaseRow | ApprovalRow:
    """Queue a rebase. If the model needs a second person, return a request for approval instead.

    Raises `SettingsNeedAdministrator`, `UnknownModel`, `WeightsMissing`, `RebaseUnfinished`, `RebaseNotPossible`,
    `ImagesMissing`, `ImagesDiffer`, `UnknownDataset`, `DatasetShredded`, `DatasetInUse`.
    """
    if body.config:
        demand_settings(actor, config_of(body.config.model_dump()))
    with session.begin():
        model = registry.get_ready(session, model_name)
        checked = _checked(session, model, body)
        if model.needs_second_person:
            wish = checked.model_dump(mode="json", exclude={"reason"})
            return second_person.request_approval(session, actor, model.id, model.name, Act.REBASE, wish, body.reason)
        return _queue(session, actor, model, checked, Requester.of(actor))


def request_approved(session: Session, actor: Actor, approval_id: str) -> ApprovalRow:
    """Queue a rebase that another person asked for. Raises what `request` and `second_person.approve` do."""
    with session.begin():
        approval = second_person.get(session, approval_id)
        model = registry.by_id(session, approval.model_id)
        checked = _checked(session, model, RebaseCreate(**approval.wish, reason=approval.reason))
        approval = second_person.approve(session, actor, approval_id, Act.REBASE, model.name)
        approval.result_id = _queue(session, actor, model, checked, Requester.of(approval)).id
    return approval


def _checked(session: Session, model: ModelRow, body: RebaseCreate) -> RebaseCreate:
    """In the caller's transaction, under the model's lock: the request with the evaluation set that it uses."""
    registry.lock_present(session, model.id)
    if row := unfinished(session, model.id):
        raise RebaseUnfinished(
            f"Rebase '{row.id}' of model '{model.name}' is {row.state}. Follow it, or cancel it first."
        )
    outstanding = demand_possible(session, model)
    if ids := deposits.unfinished_ids(session, model.id):
        raise RebaseNotPossible(
            f"Deposits of model '{model.name}' have not ended: {enumerated(ids, 10)}. Wait for them, or cancel them."
        )
    demand_images(session, model, outstanding, body.dataset_id)
    if body.dataset_id and any(uses(session, body.dataset_id) for uses in (deposits.uses_dataset, hardening_uses)):
        raise DatasetInUse(
            f"An unfinished deposit or hardening uses data set '{body.dataset_id}'. Wait for it to end, or upload the "
            "images again."
        )
    newest = datasets.newest_evaluation_set(session, model.id)
    evaluation_id = newest.id if newest else None
    if body.evaluation_set_id:
        evaluation_id = datasets.get_usable(session, model.id, body.evaluation_set_id, Purpose.EVALUATION).id
    chosen = body.config.model_dump(exclude_unset=True) if body.config else {}
    config = DepositConfigIn(**{**outstanding[-1].config, **chosen})
    return body.model_copy(update={"evaluation_set_id": evaluation_id, "config": config})


def _queue(session: Session, actor: Actor, model: ModelRow, checked: RebaseCreate, requester: Requester) -> RebaseRow:
    """In the caller's transaction. checked: what `_checked` returned."""
    row = RebaseRow(
        id=new_id(),
        model_id=model.id,
        state=State.QUEUED,
        dataset_id=checked.dataset_id,
        evaluation_set_id=checked.evaluation_set_id,
        keeps_dataset=checked.keep_dataset,
        config=(checked.config or DepositConfigIn()).model_dump(),
        reason=checked.reason,
        created_at=now(),
        created_by=requester.name,
        rung_at=now(),
    )
    session.add(row)
    session.flush()
    details = {
        "deposits": deposits.outstanding(session, model.id),
        "dataset": row.dataset_id,
        "images": datasets.get(session, row.dataset_id).counts if row.dataset_id else None,
        "evaluation_set": row.evaluation_set_id,
        "config": row.config,
    }
    if requester.key_id != actor.key_id:
        details |= requester.details()
    audit.record(
        session,
        actor.name,
        "rebase.requested",
        model=model.name,
        subject=row.id,
        reason=row.reason,
        details=details,
    )
    return row


def cancel(session: Session, vault: Vault, actor: Actor, rebase_id: str) -> RebaseRow:
    """End a rebase at once; its worker stops at its next step. Raises `UnknownRebase`, `RebaseEnded`."""
    with session.begin():
        row = get(session, rebase_id)
        registry.lock(session, row.model_id)
        session.refresh(row)
        try:
            garbage = JOBS.cancel(session, row, actor.name)
        except AlreadyEnded:
            raise RebaseEnded(
                f"Rebase '{row.id}' is {row.state}. Only one that has not ended can be cancelled."
            ) from None
    vault.remove(garbage)
    return row


def cancel_all(session: Session, by: str, model_id: str) -> list[str]:
    """In the caller's transaction, under the model's lock: end an unfinished rebase of a model. A purge does, since its
    checkpoints know what is purged.

    Returns the vault names to remove after it.
    """
    return JOBS.cancel_all(session, by, RebaseRow.model_id == model_id)


def uses_dataset(session: Session, dataset_id: str) -> bool:
    """Whether an unfinished rebase needs the data set, whatever for."""
    is_named = sa.or_(RebaseRow.dataset_id == dataset_id, RebaseRow.evaluation_set_id == dataset_id)
    is_kept = RebaseRow.dataset_id.is_(None) & RebaseRow.model_id.in_(deposits.models_with_set(dataset_id))
    query = sa.select(RebaseRow.id).where(is_named | is_kept, RebaseRow.state.in_(UNFINISHED))
    return session.scalar(query.limit(1)) is not None


def get(session: Session, rebase_id: str) -> RebaseRow:
    """Raises `UnknownRebase`."""
    row = session.get(RebaseRow, rebase_id)
    if row is None:
        raise UnknownRebase(f"There is no rebase '{rebase_id[:64]}'. `GET /v1/models/NAME/rebases` lists a model's.")
    return row


def list_of_model(session: Session, model_name: str, page: PageRequest) -> tuple[Sequence[RebaseRow], str | None]:
    """Newest first. Raises `UnknownModel`."""
    model = registry.get(session, model_name)
    return newest_first(session, sa.select(RebaseRow).where(RebaseRow.model_id == model.id), RebaseRow.id, page)


def newest(session: Session, model_id: str) -> RebaseRow | None:
    of_model = sa.select(RebaseRow).where(RebaseRow.model_id == model_id)
    return session.scalar(of_model.order_by(RebaseRow.id.desc()).limit(1))


def of_deposit(session: Session, deposit: DepositRow) -> list[RebaseRow]:
    """The rebases that made this deposit's module anew, oldest first; of the model's newest hundred."""
    finished = sa.select(RebaseRow).where(RebaseRow.model_id == deposit.model_id, RebaseRow.state == State.FINISHED)
    newest_rows = session.scalars(finished.order_by(RebaseRow.id.desc()).limit(100)).all()
    return [row for row in reversed(newest_rows) if deposit.id in (row.deposits or [])]


def unfinished(session: Session, model_id: str) -> RebaseRow | None:
    """The model's rebase that has not ended, if there is one."""
    of_model = RebaseRow.model_id == model_id, RebaseRow.state.in_(UNFINISHED)
    return session.scalar(sa.select(RebaseRow).where(*of_model))
