"""The life of a deposit job: every change is one guarded statement, so that of two workers only one can win."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.base.database import changes, now
from app.base.settings import Settings
from app.datasets import service as datasets
from app.deposits import checkpoints
from app.deposits.tables import DepositClassRow, DepositRow, State
from app.registry import policies
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault
from lirf_core.config import DepositConfig
from lirf_core.images.preprocessing import Augmentation, Preprocessing

WORKER = "worker"


class Cancelled(Exception):
    """Somebody asked for this deposit to be cancelled."""


class LeaseLost(Exception):
    """The token is stale: the deposit is another worker's, or ended."""


@dataclass(frozen=True)
class HeldModule:
    """The stored deposit module of an earlier deposit of the model."""

    deposit_id: str
    stored: StoredObject


@dataclass(frozen=True)
class Job:
    """A claimed deposit: everything the work needs, read in the claiming transaction.

    `older_modules` are to forget the deposited classes, too: they were made when the model knew them. `checkpoints`
    are of earlier attempts, by the part of the work, and so is the `curve` of losses; `attempt` counts from 1.
    """

    id: str
    token: int
    attempt: int
    is_batch_halved: bool
    model_id: str
    model_name: str
    class_names: list[str]
    preprocessing: Preprocessing
    network: StoredNetwork
    deposit_set: StoredObject
    evaluation_set: StoredObject | None
    deposited: list[int]
    preserved: list[int]
    config: DepositConfig
    older_modules: list[HeldModule]
    checkpoints: dict[str, StoredObject]
    curve: dict[str, list[float]]


def config_of(stored: dict[str, Any]) -> DepositConfig:
    """The stored settings as lirf_core's."""
    return DepositConfig(**{**stored, "augmentation": Augmentation(**stored["augmentation"])})


def claim(session: Session, settings: Settings, deposit_id: str) -> Job | None:
    """Takes a queued deposit, unless another of its model runs. None: nothing to do here (any more)."""
    try:
        with session.begin():
            claimed = changes(
                session,
                sa.update(DepositRow)
                .where(DepositRow.id == deposit_id, DepositRow.state == State.QUEUED)
                .values(
                    state=State.RUNNING,
                    token=DepositRow.token + 1,
                    attempts=DepositRow.attempts + 1,
                    lease_until=now() + timedelta(seconds=settings.lease_seconds),
                    started_at=sa.func.coalesce(DepositRow.started_at, now()),
                    progress={"phase": "starting"},
                ),
            )
            return _job(session, deposit_id) if claimed else None
    except IntegrityError:  # the unique index: one running deposit a model
        return None


def _job(session: Session, deposit_id: str) -> Job:
    row = session.get_one(DepositRow, deposit_id)
    model = registry.by_id(session, row.model_id)
    deposited = class_indices(session, [deposit_id])[deposit_id]
    held = set(registry.deposited(session, model.id))
    audit.record(
        session,
        WORKER,
        "deposit.started",
        model=model.name,
        subject=row.id,
        details={"attempt": row.attempts, "token": row.token},
    )
    return Job(
        id=row.id,
        token=row.token,
        attempt=row.attempts,
        is_batch_halved=row.is_batch_halved,
        model_id=model.id,
        model_name=model.name,
        class_names=model.class_names,
        preprocessing=registry.preprocessing_of(model),
        network=registry.stored_network(session, model),
        deposit_set=datasets.stored(session, row.dataset_id),
        evaluation_set=datasets.stored(session, row.evaluation_set_id) if row.evaluation_set_id else None,
        deposited=deposited,
        preserved=[i for i in range(len(model.class_names)) if i not in held and i not in deposited],
        config=config_of(row.config),
        older_modules=_holding(session, model.id),
        checkpoints=checkpoints.of_deposit(session, row.id),
        curve=row.curve or {},
    )


def _holding(session: Session, model_id: str) -> list[HeldModule]:
    """The modules of the model's finished deposits, oldest first."""
    held = (
        DepositRow.model_id == model_id,
        DepositRow.state == State.DEPOSITED,
        DepositRow.module_object_id.is_not(None),
    )
    query = sa.select(DepositRow.id, DepositRow.module_object_id).where(*held).order_by(DepositRow.revision)
    ids = {deposit_id: object_id for deposit_id, object_id in session.execute(query) if object_id}
    sealed = vaults.stored_all(session, list(ids.values()))
    return [HeldModule(deposit_id, sealed[object_id]) for deposit_id, object_id in ids.items()]


def holds(session: Session, held: HeldModule) -> bool:
    """Whether the deposit still has its module."""
    with session.begin():
        return session.get_one(DepositRow, held.deposit_id, populate_existing=True).state == State.DEPOSITED


def class_indices(session: Session, deposit_ids: Sequence[str]) -> dict[str, list[int]]:
    """The classes of each deposit, in the order of the model's outputs, by its id."""
    found: dict[str, list[int]] = {deposit_id: [] for deposit_id in deposit_ids}
    query = sa.select(DepositClassRow).where(DepositClassRow.deposit_id.in_(deposit_ids))
    for row in session.scalars(query.order_by(DepositClassRow.class_index)):
        found[row.deposit_id].append(row.class_index)
    return found


def heartbeat(
    session: Session, settings: Settings, job: Job, progress: dict[str, Any], curve: dict[str, Any] | None = None
) -> None:
    """Renews the lease and tells the progress. Raises `Cancelled` or `LeaseLost`."""
    told = {"progress": progress, **({"curve": curve} if curve else {})}
    with session.begin():
        renewed = changes(
            session, _held(job).values(lease_until=now() + timedelta(seconds=settings.lease_seconds), **told)
        )
        if not renewed:
            _explain_lost(session, job)


def keep_checkpoint(
    session: Session, vault: Vault, settings: Settings, job: Job, part: str, checkpoint: StoredObject
) -> None:
    """Keeps where a part of the work is, in place of what was kept of it before. Raises `Cancelled`, `LeaseLost`.

    part: `checkpoints.TARGET`, or the id of the older deposit whose module is scrubbed.
    """
    with vault.discarded_on_error(checkpoint), session.begin():
        registry.lock(session, job.model_id)
        held = changes(session, _held(job).values(lease_until=now() + timedelta(seconds=settings.lease_seconds)))
        if not held:
            _explain_lost(session, job)
        if part == checkpoints.TARGET or session.get_one(DepositRow, part).state == State.DEPOSITED:
            garbage = checkpoints.keep(session, job.id, part, checkpoint)
        else:  # it was purged meanwhile
            garbage = [checkpoint.name]
    vault.remove(garbage)


def publish(
    session: Session,
    vault: Vault,
    job: Job,
    target: StoredObject,
    module: StoredObject,
    scrubbed: Sequence[HeldModule],
    metrics: dict[str, Any] | None,
) -> bool:
    """The one transaction that makes a deposit true. Every object was read back. Raises `Cancelled`, `LeaseLost`.

    scrubbed: what takes the place of `job.older_modules`, whose keys are shredded. Returns whether the model's policy
    had older networks destroyed, too.
    """
    with vault.discarded_on_error(target, module, *(held.stored for held in scrubbed)), session.begin():
        model = registry.lock(session, job.model_id)
        finished = changes(
            session, _held(job).values(state=State.DEPOSITED, finished_at=now(), lease_until=None, metrics=metrics)
        )
        if not finished:
            _explain_lost(session, job)
        row = session.get_one(DepositRow, job.id, populate_existing=True)
        row.module_object_id, row.module_bytes = vaults.record(session, module), module.plaintext_bytes
        row.revision = registry.publish_revision(session, job.model_id, target, job.id, job.deposited)
        row.progress = {**row.progress, "phase": "finished"}
        session.flush()
        destroyed, garbage = policies.destroy_older(session, model)
        audit.record(
            session,
            WORKER,
            "deposit.finished",
            model=job.model_name,
            subject=job.id,
            reason=row.reason,
            details={
                "classes": [job.class_names[i] for i in job.deposited],
                "revision": row.revision,
                "target_object": target.name,
                "module_object": module.name,
                "metrics": metrics,
                "destroyed_revisions": destroyed,
            },
        )
        garbage += shred_what_it_used(session, row, WORKER) + [_replace(session, job, held) for held in scrubbed]
        garbage += checkpoints.forget_of_model(session, job.model_id)
    vault.remove(garbage)
    return bool(destroyed)


def _replace(session: Session, job: Job, scrubbed: HeldModule) -> str:
    """The scrubbed module takes the place of the one that knew more; returns the vault name to remove.

    What was purged meanwhile stays so: then it is the scrubbed module that goes.
    """
    row = session.get_one(DepositRow, scrubbed.deposit_id, populate_existing=True)
    if row.state != State.DEPOSITED:
        return scrubbed.stored.name
    assert row.module_object_id is not None
    garbage = vaults.shred(session, row.module_object_id)
    row.module_object_id, row.module_bytes = vaults.record(session, scrubbed.stored), scrubbed.stored.plaintext_bytes
    audit.record(
        session,
        WORKER,
        "module.scrubbed",
        model=job.model_name,
        subject=row.id,
        details={
            "of_classes": [job.class_names[i] for i in job.deposited],
            "for_deposit": job.id,
            "module_object": scrubbed.stored.name,
        },
    )
    return garbage


def fail(session: Session, vault: Vault, job: Job, reason: str) -> None:
    """Ends the job without a result; the model stays exactly as it was."""
    _end(session, vault, job, State.FAILED, "deposit.failed", reason)


def confirm_cancelled(session: Session, vault: Vault, job: Job) -> None:
    """Ends a running job that was asked to stop."""
    _end(session, vault, job, State.CANCELLED, "deposit.cancelled", None)


def give_back(session: Session, vault: Vault, settings: Settings, job: Job, failure: str | None) -> None:
    """Queues a running job again after a trouble that may pass, or fails it when that happened too often.

    `failure` says what the trouble was; None where the worker itself is being stopped, which is no attempt.
    """
    if failure is not None and job.attempt >= settings.max_attempts:
        fail(session, vault, job, f"after {job.attempt} attempts: {failure}")
    else:
        _requeue(session, vault, job, failure, attempts=job.attempt - (failure is None))


def try_smaller(session: Session, vault: Vault, job: Job) -> None:
    """The device had too little memory: queues the job once more with half the batch, then fails it with advice."""
    config = job.config
    halved = {"batch_size": max(2, config.batch_size // 2), "proxy_batch": max(1, config.proxy_batch // 2)}
    if job.is_batch_halved or halved == {name: getattr(config, name) for name in halved}:
        advice = "ask for a smaller batch_size and proxy_batch, or give the worker a device with more memory."
        fail(session, vault, job, f"the device has too little memory for a batch_size of {config.batch_size}; {advice}")
    else:
        trouble = f"out of memory; once more with a batch_size of {halved['batch_size']}"
        with session.begin():
            values = session.get_one(DepositRow, job.id).config | halved
        _requeue(session, vault, job, trouble, attempts=job.attempt - 1, config=values, is_batch_halved=True)


def _requeue(session: Session, vault: Vault, job: Job, trouble: str | None, **values: Any) -> None:
    """What was trained with other settings is of no use any more."""
    garbage: list[str] = []
    with session.begin():
        # `rung_at` in the past: the reconciler rings in its next round
        requeued = changes(
            session,
            _held(job).values(state=State.QUEUED, lease_until=None, rung_at=now() - timedelta(days=1), **values),
        )
        if requeued:
            details = {"attempts": values["attempts"], "trouble": trouble}
            audit.record(session, WORKER, "deposit.requeued", model=job.model_name, subject=job.id, details=details)
            garbage = checkpoints.forget(session, job.id) if "config" in values else []
    vault.remove(garbage)
    if not requeued:
        confirm_cancelled(session, vault, job)


def _end(session: Session, vault: Vault, job: Job, state: State, action: str, failure: str | None) -> None:
    with session.begin():
        ended = changes(
            session,
            _held(job, even_if_cancelled=True).values(
                state=state, finished_at=now(), lease_until=None, failure=failure
            ),
        )
        if not ended:
            return
        row = session.get_one(DepositRow, job.id, populate_existing=True)
        audit.record(
            session,
            WORKER,
            action,
            model=job.model_name,
            subject=job.id,
            details={"failure": failure} if failure else None,
        )
        garbage = shred_what_it_used(session, row, WORKER)
    vault.remove(garbage)


def end_queued(session: Session, row: DepositRow, actor: str) -> list[str]:
    """In the caller's transaction: cancels a deposit nobody has claimed; returns vault names to remove after it."""
    return _end_queued(session, row, actor, "deposit.cancelled", state=State.CANCELLED, is_cancel_requested=True)


def refuse(session: Session, vault: Vault, deposit_id: str, failure: str) -> None:
    """Fails a queued deposit that cannot be claimed: it would wait for ever, and evidence with it."""
    with session.begin():
        row = session.get_one(DepositRow, deposit_id)
        registry.lock(session, row.model_id)
        garbage = _end_queued(session, row, WORKER, "deposit.failed", state=State.FAILED, failure=failure)
    vault.remove(garbage)


def _end_queued(session: Session, row: DepositRow, actor: str, action: str, **values: Any) -> list[str]:
    queued = sa.update(DepositRow).where(DepositRow.id == row.id, DepositRow.state == State.QUEUED)
    if not changes(session, queued.values(finished_at=now(), **values)):
        return []
    session.refresh(row)
    model = registry.by_id(session, row.model_id)
    details = {"failure": row.failure} if row.failure else {}
    audit.record(session, actor, action, model=model.name, subject=row.id, details=details)
    return shred_what_it_used(session, row, actor)


def waiting(session: Session, model_id: str) -> list[str]:
    """Queued deposits of a model, oldest first."""
    query = sa.select(DepositRow.id).where(DepositRow.model_id == model_id, DepositRow.state == State.QUEUED)
    return list(session.scalars(query.order_by(DepositRow.id)))


def wait_for_a_worker(session: Session) -> bool:
    """Whether a deposit could be claimed: it is queued, and none of its model runs."""
    running = sa.select(DepositRow.model_id).where(DepositRow.state == State.RUNNING)
    ready = DepositRow.state == State.QUEUED, DepositRow.model_id.not_in(running)
    return session.scalar(sa.select(DepositRow.id).where(*ready).limit(1)) is not None


def _held(job: Job, even_if_cancelled: bool = False) -> sa.Update:
    """An update that only the holder of the newest token can make."""
    held = sa.update(DepositRow).where(
        DepositRow.id == job.id, DepositRow.state == State.RUNNING, DepositRow.token == job.token
    )
    return held if even_if_cancelled else held.where(DepositRow.is_cancel_requested.is_(False))


def _explain_lost(session: Session, job: Job) -> None:
    row = session.get_one(DepositRow, job.id, populate_existing=True)
    if row.token == job.token and row.state == State.RUNNING and row.is_cancel_requested:
        raise Cancelled(job.id)
    raise LeaseLost(f"deposit {job.id} is {row.state} with token {row.token}; this worker holds {job.token}")


def shred_what_it_used(session: Session, row: DepositRow, actor: str) -> list[str]:
    """The deposit has ended; returns the vault names to remove after the transaction."""
    garbage = checkpoints.forget(session, row.id)
    return garbage if row.keeps_dataset else garbage + datasets.shred(session, actor, row.dataset_id)
