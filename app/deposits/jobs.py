"""The life of a deposit job: every change is one guarded statement, so that of two workers only one can win."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.database import changes, now
from app.datasets import service as datasets
from app.deposits.tables import DepositClassRow, DepositRow, State
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.settings import Settings
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault
from lirf_core.config import DepositConfig
from lirf_core.data import Augmentation, Preprocessing

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

    `older_modules` are to forget the deposited classes, too: they were made when the model knew them.
    """

    id: str
    token: int
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
    deposited = class_indices(session, deposit_id)
    held = {c.class_index for c in registry.classes(session, model.id) if c.deposit_id}
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
        older_modules=[
            HeldModule(other.id, vaults.stored(session, object_id)) for other, object_id in _holding(session, model.id)
        ],
    )


def _holding(session: Session, model_id: str) -> Sequence[tuple[DepositRow, str]]:
    """The model's finished deposits and the ids of their modules, oldest first."""
    query = sa.select(DepositRow).where(DepositRow.model_id == model_id, DepositRow.state == State.DEPOSITED)
    rows = session.scalars(query.order_by(DepositRow.revision))
    return [(row, row.module_object_id) for row in rows if row.module_object_id]


def holds(session: Session, held: HeldModule) -> bool:
    """Whether the deposit still has its module."""
    with session.begin():
        return session.get_one(DepositRow, held.deposit_id, populate_existing=True).state == State.DEPOSITED


def class_indices(session: Session, deposit_id: str) -> list[int]:
    """The classes of a deposit, in the order of the model's outputs."""
    query = sa.select(DepositClassRow.class_index).where(DepositClassRow.deposit_id == deposit_id)
    return list(session.scalars(query.order_by(DepositClassRow.class_index)))


def heartbeat(session: Session, settings: Settings, job: Job, progress: dict[str, Any]) -> None:
    """Renews the lease and tells the progress. Raises `Cancelled` or `LeaseLost`."""
    with session.begin():
        renewed = changes(
            session, _held(job).values(lease_until=now() + timedelta(seconds=settings.lease_seconds), progress=progress)
        )
        if not renewed:
            _explain_lost(session, job)


def publish(
    session: Session,
    vault: Vault,
    job: Job,
    target: StoredObject,
    module: StoredObject,
    scrubbed: Sequence[HeldModule],
    metrics: dict[str, Any] | None,
) -> None:
    """The one transaction that makes a deposit true. Every object was read back. Raises `Cancelled`, `LeaseLost`.

    scrubbed: what takes the place of `job.older_modules`, whose keys are shredded.
    """
    with vault.discarded_on_error(target, module, *(held.stored for held in scrubbed)), session.begin():
        registry.lock(session, job.model_id)
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
            },
        )
        garbage = _shred_deposit_set(session, row, WORKER) + [_replace(session, job, held) for held in scrubbed]
    vault.remove(garbage)


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
    with session.begin():
        row = session.get_one(DepositRow, job.id, populate_existing=True)
        is_last = failure is not None and row.attempts >= settings.max_attempts
        if not is_last and not row.is_cancel_requested:
            requeued = changes(
                session,
                _held(job).values(
                    state=State.QUEUED,
                    lease_until=None,
                    rung_at=row.created_at - timedelta(days=1),
                    attempts=row.attempts - (failure is None),
                ),
            )
            if requeued:
                details = {"attempts": row.attempts, "trouble": failure}
                audit.record(session, WORKER, "deposit.requeued", model=job.model_name, subject=job.id, details=details)
            return
    if is_last:
        fail(session, vault, job, f"after {row.attempts} attempts: {failure}")
    else:
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
        garbage = _shred_deposit_set(session, row, WORKER)
    vault.remove(garbage)


def end_queued(session: Session, row: DepositRow, actor: str) -> list[str]:
    """In the caller's transaction: cancels a deposit nobody has claimed; returns vault names to remove after it."""
    ended = changes(
        session,
        sa.update(DepositRow)
        .where(DepositRow.id == row.id, DepositRow.state == State.QUEUED)
        .values(state=State.CANCELLED, finished_at=now(), is_cancel_requested=True),
    )
    if not ended:
        return []
    session.refresh(row)
    model = registry.by_id(session, row.model_id)
    audit.record(session, actor, "deposit.cancelled", model=model.name, subject=row.id)
    return _shred_deposit_set(session, row, actor)


def waiting(session: Session, model_id: str) -> list[str]:
    """Queued deposits of a model, oldest first."""
    query = sa.select(DepositRow.id).where(DepositRow.model_id == model_id, DepositRow.state == State.QUEUED)
    return list(session.scalars(query.order_by(DepositRow.id)))


def reconcile(session: Session, vault: Vault, settings: Settings) -> list[str]:
    """Puts right what a crash or a lost message left, and returns the deposits whose doorbell is to be rung.

    A running deposit whose lease ran out is queued again or, after too many attempts, failed; a queued one that was
    not announced for a while is announced again.
    """
    garbage: list[str] = []
    with session.begin():
        for row in session.scalars(
            sa.select(DepositRow).where(DepositRow.state == State.RUNNING, DepositRow.lease_until < now())
        ).all():
            garbage += _take_back(session, settings, row)
        due = now() - timedelta(seconds=settings.doorbell_seconds)
        busy = sa.select(DepositRow.model_id).where(DepositRow.state == State.RUNNING)
        silent = sa.select(DepositRow.id).where(
            DepositRow.state == State.QUEUED, DepositRow.rung_at < due, DepositRow.model_id.not_in(busy)
        )
        ids = list(session.scalars(silent.order_by(DepositRow.id).limit(1000)))
        session.execute(sa.update(DepositRow).where(DepositRow.id.in_(ids)).values(rung_at=now()))
    vault.remove(garbage)
    return ids


def _take_back(session: Session, settings: Settings, row: DepositRow) -> list[str]:
    model = registry.by_id(session, row.model_id)
    expired = sa.update(DepositRow).where(
        DepositRow.id == row.id,
        DepositRow.state == State.RUNNING,
        DepositRow.token == row.token,
        DepositRow.lease_until < now(),
    )
    if row.is_cancel_requested:
        values, action = {"state": State.CANCELLED, "finished_at": now(), "lease_until": None}, "deposit.cancelled"
    elif row.attempts >= settings.max_attempts:
        failure = (
            f"the worker was lost {row.attempts} times while it ran; look at the worker's log, then request it again."
        )
        values = {"state": State.FAILED, "finished_at": now(), "lease_until": None, "failure": failure}
        action = "deposit.failed"
    else:
        # `rung_at` in the past: the doorbell rings in this same round
        values = {"state": State.QUEUED, "lease_until": None, "rung_at": row.created_at - timedelta(days=1)}
        action = "deposit.requeued"
    if not changes(session, expired.values(**values)):
        return []
    session.refresh(row)
    audit.record(
        session, audit.RECONCILER, action, model=model.name, subject=row.id, details={"attempts": row.attempts}
    )
    return _shred_deposit_set(session, row, audit.RECONCILER) if row.state != State.QUEUED else []


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


def _shred_deposit_set(session: Session, row: DepositRow, actor: str) -> list[str]:
    return [] if row.keeps_dataset else datasets.shred(session, actor, row.dataset_id)
