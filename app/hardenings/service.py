"""Hardenings as their users see them: request, list, read, cancel; and whether a hardened network is served."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.datasets import service as datasets
from app.datasets.service import Purpose
from app.deposits import service as deposits
from app.deposits.jobs import config_of as deposit_config_of
from app.deposits.service import DepositRow
from app.hardenings import jobs
from app.hardenings.jobs import JOBS, HardenedNetwork
from app.hardenings.schemas import HardeningCreate
from app.hardenings.tables import HardeningRow as HardeningRow
from app.hardenings.tables import State as State
from app.jobs.machine import WORKER, AlreadyEnded
from app.jobs.mixin import UNFINISHED
from app.registry import service as registry
from app.registry.service import ModelRow
from app.vault import service as vaults
from app.vault.service import Vault
from lirf_core.config import HardeningConfig
from lirf_core.enumeration import enumerated


class UnknownHardening(Problem):
    """No hardening has this id. `GET /v1/models/{name}/hardenings` lists a model's hardenings."""

    status, slug, title = 404, "unknown-hardening", "There is no such hardening"


class NothingToHarden(Problem):
    """No deposit or rebase made the revision in service, so it has no target. Deposit a class first."""

    status, slug, title = 409, "nothing-to-harden", "The model has no target to harden"


class HardeningIsOff(Problem):
    """The model's policy says `hardening: none`. An administrator can change it with `PUT /v1/models/{name}/policy`."""

    status, slug, title = 409, "hardening-is-off", "The policy does not have targets hardened"


class HardeningUnfinished(Problem):
    """A hardening of this model has not ended. Follow it, or cancel it."""

    status, slug, title = 409, "hardening-unfinished", "A hardening has not ended"


class HardeningEnded(Problem):
    """The hardening has ended. Only one that is queued or running can be cancelled."""

    status, slug, title = 409, "hardening-ended", "The hardening has ended"


class TransferSetMissing(Problem):
    """The deposit set was shredded when its deposit or its hardening ended. Upload the images again, as `purpose`
    `deposit`, and name the data set as `dataset_id`.
    """

    status, slug, title = 409, "transfer-set-missing", "There are no images to harden with"


class TransferSetDiffers(Problem):
    """The data set has images of classes that are not deposited. Upload images of deposited classes only."""

    status, slug, title = 422, "transfer-set-differs", "The images show classes that are not deposited"


@dataclass(frozen=True)
class Status:
    """What becomes of the hardened network of the revision in service. why_not: why it is not served, if it is not.

    hardening: the newest of the revision.
    """

    policy: str
    hardening: HardeningRow | None
    is_served: bool
    why_not: str | None


def request(session: Session, actor: Actor, model_name: str, body: HardeningCreate) -> HardeningRow:
    """Queue the hardening of the target in service. Its result takes the place of an earlier one.

    Raises `UnknownModel`, `WeightsMissing`, `NothingToHarden`, `HardeningIsOff`, `HardeningUnfinished`,
    `TransferSetMissing`, `TransferSetDiffers`, `UnknownDataset`, `DatasetShredded`.
    """
    with session.begin():
        model = registry.get_ready(session, model_name)
        model = registry.lock_present(session, model.id)
        deposit = _newest_deposit(session, model)
        if deposit is None or not registry.deposited(session, model.id):
            raise NothingToHarden(
                f"Model '{model.name}' has no target to harden at revision {model.revision}. Deposit a class first."
            )
        if model.hardening == "none":
            raise HardeningIsOff(
                f"The policy of model '{model.name}' says `hardening: none`. An administrator can change that with "
                f"`lirf policy {model.name} --hardening served`."
            )
        if row := unfinished(session, model.id):
            raise HardeningUnfinished(
                f"Hardening '{row.id}' of model '{model.name}' is {row.state}. Follow it, or cancel it first."
            )
        dataset_id = body.dataset_id or _own_images(session, model, deposit)
        _demand_deposited_classes(session, model, dataset_id)
        evaluation_id = body.evaluation_set_id or _evaluation_set(session, deposit)
        if body.evaluation_set_id:
            datasets.get_usable(session, model.id, body.evaluation_set_id, Purpose.EVALUATION)
        config = body.config.applied_to(_default_config(session, deposit, dataset_id))
        keeps = body.keep_dataset or (body.dataset_id is None and deposit.keeps_dataset)
        return _queue(session, actor.name, deposit, dataset_id, evaluation_id, config, keeps)


def follow_deposit(session: Session, deposit: DepositRow) -> tuple[list[str], bool]:
    """In the transaction that publishes a deposit: end what was made of the revision before, and queue a hardening.

    No hardening follows a deposit of single images, which leaves every class on. Returns the vault names to remove
    after the transaction, and whether the hardening needs the deposit's images.
    """
    if deposit.kind == deposits.Kind.SAMPLES:
        return destroy_all(session, WORKER, deposit.model_id), False
    return follow(session, deposit, deposit.dataset_id, deposit.evaluation_set_id, keeps_dataset=deposit.keeps_dataset)


def follow(
    session: Session, deposit: DepositRow, dataset_id: str, evaluation_set_id: str | None, *, keeps_dataset: bool
) -> tuple[list[str], bool]:
    """As `follow_deposit`, with these images, after any job that makes a revision. deposit: one that it made."""
    garbage = destroy_all(session, WORKER, deposit.model_id)
    if registry.by_id(session, deposit.model_id).hardening == "none":
        return garbage, False
    config = _default_config(session, deposit, dataset_id)
    _queue(session, WORKER, deposit, dataset_id, evaluation_set_id, config, keeps_dataset)
    return garbage, True


def _queue(
    session: Session,
    by: str,
    deposit: DepositRow,
    dataset_id: str,
    evaluation_id: str | None,
    config: HardeningConfig,
    keeps_dataset: bool,
) -> HardeningRow:
    assert deposit.revision is not None
    model = registry.by_id(session, deposit.model_id)
    assert model.revision is not None
    row = HardeningRow(
        id=new_id(),
        model_id=model.id,
        deposit_id=deposit.id,
        revision=model.revision,
        state=State.QUEUED,
        dataset_id=dataset_id,
        evaluation_set_id=evaluation_id,
        keeps_dataset=keeps_dataset,
        config=asdict(config),
        created_at=now(),
        created_by=by,
        rung_at=now(),
    )
    session.add(row)
    session.flush()
    details = {"revision": row.revision, "dataset": dataset_id, "config": row.config}
    audit.record(session, by, "hardening.requested", model=model.name, subject=row.id, details=details)
    return row


def cancel(session: Session, vault: Vault, actor: Actor, hardening_id: str) -> HardeningRow:
    """End a hardening at once; its worker stops at its next step. Raises `UnknownHardening`, `HardeningEnded`."""
    with session.begin():
        row = get(session, hardening_id)
        registry.lock(session, row.model_id)
        session.refresh(row)
        try:
            garbage = JOBS.cancel(session, row, actor.name)
        except AlreadyEnded:
            raise HardeningEnded(
                f"Hardening '{row.id}' is {row.state}. Only one that has not ended can be cancelled."
            ) from None
    vault.remove(garbage)
    return row


def cancel_all(session: Session, by: str, model_id: str) -> list[str]:
    """In the caller's transaction, under the model's lock: end an unfinished hardening of a model.

    Returns the vault names to remove after it.
    """
    return JOBS.cancel_all(session, by, HardeningRow.model_id == model_id)


def destroy_all(session: Session, by: str, model_id: str) -> list[str]:
    """In the caller's transaction: end every hardening of a model, and destroy its hardened network."""
    return cancel_all(session, by, model_id) + jobs.shred_hardened(session, model_id)


def cancel_with_images_of(session: Session, by: str, model: ModelRow, classes: Sequence[str]) -> list[str]:
    """In the caller's transaction: end an unfinished hardening that learns from images of these classes.

    Returns the vault names to remove after it.
    """
    row = unfinished(session, model.id)
    if row is None or not datasets.get(session, row.dataset_id).counts.keys() & set(classes):
        return []
    return JOBS.cancel(session, row, by)


def uses_dataset(session: Session, dataset_id: str) -> bool:
    """Whether an unfinished hardening needs the data set, whatever for."""
    with_preserved = sa.select(DepositRow.id).where(DepositRow.preserved_set_id == dataset_id)
    is_needed = sa.or_(
        HardeningRow.dataset_id == dataset_id,
        HardeningRow.evaluation_set_id == dataset_id,
        HardeningRow.deposit_id.in_(with_preserved),
    )
    query = sa.select(HardeningRow.id).where(is_needed, HardeningRow.state.in_(UNFINISHED))
    return session.scalar(query.limit(1)) is not None


def get(session: Session, hardening_id: str) -> HardeningRow:
    """Raises `UnknownHardening`."""
    row = session.get(HardeningRow, hardening_id)
    if row is None:
        raise UnknownHardening(
            f"There is no hardening '{hardening_id[:64]}'. `GET /v1/models/NAME/hardenings` lists a model's."
        )
    return row


def list_of_model(session: Session, model_name: str, page: PageRequest) -> tuple[Sequence[HardeningRow], str | None]:
    """Newest first. Raises `UnknownModel`."""
    model = registry.get(session, model_name)
    of_model = sa.select(HardeningRow).where(HardeningRow.model_id == model.id)
    return newest_first(session, of_model, HardeningRow.id, page)


def models_with_unfinished() -> sa.Select[str]:
    """A query for the ids of the models of which a hardening has not ended."""
    return sa.select(HardeningRow.model_id).where(HardeningRow.state.in_(UNFINISHED))


def unfinished(session: Session, model_id: str) -> HardeningRow | None:
    """The model's hardening that has not ended, if there is one."""
    of_model = HardeningRow.model_id == model_id, HardeningRow.state.in_(UNFINISHED)
    return session.scalar(sa.select(HardeningRow).where(*of_model))


def hardened(session: Session, model: ModelRow) -> HardenedNetwork | None:
    """The hardened network of the revision in service, if there is one, whatever the policy."""
    row = _with_network(session, model)
    if row is None:
        return None
    assert row.object_id is not None
    return HardenedNetwork(vaults.stored_object(session, row.object_id), registry.belonging_of(model), row.revision)


def served(session: Session, model: ModelRow) -> HardenedNetwork | None:
    """What answers for the model while nothing is withdrawn; None if that is the working target."""
    return hardened(session, model) if model.hardening == "served" else None


def is_served(model: ModelRow, row: HardeningRow) -> bool:
    """Whether this hardening's network answers for the model while nothing is withdrawn."""
    return model.hardening == "served" and _has_network(row) and row.revision == model.revision


def _has_network(row: HardeningRow) -> bool:
    return row.object_id is not None and row.shredded_at is None  # of one row of a model at most


def status(session: Session, model: ModelRow) -> Status:
    """Whether a hardened network is served, and why not."""
    return statuses(session, [model])[model.id]


def statuses(session: Session, models: Sequence[ModelRow]) -> dict[str, Status]:
    """The `status` of each model, by its id. It takes the same number of queries for any number of models."""
    ids = [model.id for model in models]
    rows: dict[str, list[HardeningRow]] = {}
    for row in session.scalars(_of_revisions_in_service(ids).order_by(HardeningRow.id)):
        rows.setdefault(row.model_id, []).append(row)
    with_target = registry.with_deposited_classes(session, ids)
    of_deposits = deposits.models_at_a_deposits_revision(session, ids)
    found: dict[str, Status] = {}
    for model in models:
        of_model = rows.get(model.id, [])
        newest_row = of_model[-1] if of_model else None
        answers = any(is_served(model, row) for row in of_model)
        why_not = None
        if not answers:
            is_of_deposit = model.id in of_deposits
            why_not = _why_not(model, of_model, has_target=model.id in with_target, is_of_deposit=is_of_deposit)
        found[model.id] = Status(model.hardening, newest_row, answers, why_not)
    return found


def _of_revisions_in_service(model_ids: Sequence[str]) -> sa.Select[HardeningRow]:
    is_in_service = sa.and_(ModelRow.id == HardeningRow.model_id, ModelRow.revision == HardeningRow.revision)
    return sa.select(HardeningRow).join(ModelRow, is_in_service).where(HardeningRow.model_id.in_(model_ids))


def _why_not(model: ModelRow, rows: Sequence[HardeningRow], *, has_target: bool, is_of_deposit: bool) -> str:
    """rows: the hardenings of the revision in service, oldest first."""
    row = rows[-1] if rows else None
    if not has_target:
        return "No class is deposited, so there is no target to harden."
    if any(_has_network(one) for one in rows):
        return f"The policy says `hardening: {model.hardening}`, so the hardened network is kept but not served."
    if not is_of_deposit:
        return f"Revision {model.revision} is a hardened network that became the base, and answers itself."
    if row is None:
        if model.hardening == "none":
            return "The policy says `hardening: none`, so targets are served as deposits leave them."
        return (
            f"The target of revision {model.revision} was never hardened. `lirf harden {model.name}` or "
            f"`POST /v1/models/{model.name}/hardenings` requests it."
        )
    if row.state in UNFINISHED:
        return f"Hardening '{row.id}' is {row.state}. Until it has finished, the working target is served."
    return row.failure or f"Hardening '{row.id}' was {row.state}. `lirf harden {model.name}` requests it again."


def _with_network(session: Session, model: ModelRow) -> HardeningRow | None:
    is_present = HardeningRow.object_id.is_not(None), HardeningRow.shredded_at.is_(None)
    of_revision = HardeningRow.model_id == model.id, HardeningRow.revision == model.revision
    return session.scalar(sa.select(HardeningRow).where(*of_revision, *is_present).limit(1))


def _newest_deposit(session: Session, model: ModelRow) -> DepositRow | None:
    """The deposit that made the revision in service."""
    return deposits.of_revision(session, model.id, model.revision) if model.revision else None


def _own_images(session: Session, model: ModelRow, deposit: DepositRow) -> str:
    dataset = datasets.get(session, deposit.dataset_id)
    if deposit.kind == deposits.Kind.SAMPLES:
        raise TransferSetMissing(
            f"The newest deposit of model '{model.name}' is of single images. Upload images of deposited classes with "
            f"`POST /v1/models/{model.name}/datasets?purpose=deposit`, and name that data set as `dataset_id`."
        )
    if dataset.shredded_at:
        names = enumerated([f"'{name}'" for name in deposits.class_names(session, deposit)])
        raise TransferSetMissing(
            f"The deposit set '{dataset.id}' was shredded at {dataset.shredded_at:%Y-%m-%d %H:%M} UTC. Upload images "
            f"of {names} with `POST /v1/models/{model.name}/datasets?purpose=deposit`, and name that data set as "
            "`dataset_id`."
        )
    return dataset.id


def _demand_deposited_classes(session: Session, model: ModelRow, dataset_id: str) -> None:
    dataset = datasets.get_usable(session, model.id, dataset_id, Purpose.DEPOSIT)
    held = {model.class_names[index] for index in registry.deposited(session, model.id)}
    if others := sorted(dataset.counts.keys() - held):
        raise TransferSetDiffers(
            f"Data set '{dataset.id}' has images of {enumerated([repr(name) for name in others])}, which model "
            f"'{model.name}' still answers. Upload images of deposited classes only."
        )


def _evaluation_set(session: Session, deposit: DepositRow) -> str | None:
    """The deposit's evaluation set if it is still there, otherwise the model's newest."""
    if deposit.evaluation_set_id and not datasets.get(session, deposit.evaluation_set_id).shredded_at:
        return deposit.evaluation_set_id
    newest_set = datasets.newest_evaluation_set(session, deposit.model_id)
    return newest_set.id if newest_set else None


def _default_config(session: Session, deposit: DepositRow, dataset_id: str) -> HardeningConfig:
    images = sum(datasets.get(session, dataset_id).counts.values())
    return HardeningConfig.like(deposit_config_of(deposit.config), images)
