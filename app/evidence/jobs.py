"""The life of an examination: every change is one guarded statement, so that of two workers only one can win.

Nothing of a model changes by it, and it stores no object: who loses it leaves nothing behind. Deposits go first.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.base.database import changes, count_by_state, now
from app.base.errors import Problem
from app.base.settings import Settings
from app.datasets import service as datasets
from app.deposits import jobs as deposit_jobs
from app.deposits import service as deposits
from app.evidence.digests import digest
from app.evidence.tables import EvidenceRow, State
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.vault import service as vaults
from app.vault.service import StoredObject
from lirf_core.architectures import ArchitectureSpec
from lirf_core.evidence.membership import Attack
from lirf_core.images.preprocessing import Augmentation, Preprocessing

WORKER = deposit_jobs.WORKER
MOST_RESTARTS = 10  # each because a deposit or a purge replaced what was examined
log = logging.getLogger(__name__)


class NoLongerHeld(Exception):
    """The token is stale: the examination is another worker's, or was cancelled."""


class Destroyed(Exception):
    """A network or a data set that is examined was purged, destroyed, replaced or discarded meanwhile."""


@dataclass(frozen=True)
class Job:
    """A claimed examination: everything the work needs, read in the claiming transaction.

    `original` is None where the policy had it destroyed, `module` where it was purged; `membership` is what was
    measured when the deposit was made.
    """

    id: str
    token: int
    attempt: int
    restarts: int
    deposit_id: str
    deposit_revision: int
    class_names: list[str]
    deposited: list[int]
    preserved: list[int]
    preprocessing: Preprocessing
    augmentation: Augmentation
    spec: ArchitectureSpec
    target: StoredNetwork
    original: StoredNetwork | None
    module: StoredObject | None
    reference: StoredNetwork | None
    evaluation_set: StoredObject
    members: StoredObject | None
    are_members_its_own: bool
    membership: dict[str, Attack]

    @property
    def examined(self) -> dict[str, str]:
        """The names of the objects in the vault, by what they are."""
        networks = {"target": self.target, "original": self.original, "reference": self.reference}
        objects = {name: network.lower for name, network in networks.items() if network}
        objects |= {"upper": self.target.upper} | ({"reference_upper": self.reference.upper} if self.reference else {})
        objects |= {"module": self.module} if self.module else {}
        members = "deposit_set" if self.are_members_its_own else "shown_as_members"
        objects |= {members: self.members} if self.members else {}
        objects["evaluation_set"] = self.evaluation_set
        return {name: stored.name for name, stored in objects.items()}

    @property
    def network(self) -> dict[str, Any]:
        """What kind of network it is, and how many classes it has."""
        return {
            "architecture": self.spec.name,
            "split": self.target.belonging.split,
            "classes": len(self.class_names),
        }


def claim(session: Session, settings: Settings, evidence_id: str) -> Job | None:
    """Takes a queued examination, unless a deposit waits for a worker. None: nothing to do here (any more)."""
    with session.begin():
        row = session.get(EvidenceRow, evidence_id)
        if row is None:
            return None
        deposits.locked(session, row.deposit_id)  # nothing is purged or published between what is read here
        queued = sa.update(EvidenceRow).where(EvidenceRow.id == evidence_id, EvidenceRow.state == State.QUEUED)
        if deposit_jobs.wait_for_a_worker(session):
            session.execute(queued.values(rung_at=_long_ago()))  # the reconciler rings once none waits
            return None
        claimed = changes(
            session,
            queued.values(
                state=State.RUNNING,
                token=EvidenceRow.token + 1,
                attempts=EvidenceRow.attempts + 1,
                lease_until=_lease(settings),
                started_at=sa.func.coalesce(EvidenceRow.started_at, now()),
                progress={},
            ),
        )
        if not claimed:
            return None
        try:
            with session.begin_nested():
                job = _job(session, evidence_id)
        except SQLAlchemyError:
            raise
        except Exception as error:
            if isinstance(error, Problem):
                failure = error.detail
            else:
                log.exception("evidence %s cannot be begun", evidence_id)
                failure = f"{type(error).__name__} in the worker; its log says more."
            row = session.get_one(EvidenceRow, evidence_id, populate_existing=True)
            row.state, row.finished_at, row.lease_until, row.failure = State.FAILED, now(), None, failure
            _record(session, WORKER, row, "failed", failure=failure)
            return None
        _record(session, WORKER, row, "started", attempt=job.attempt, token=job.token)
    return job


def _job(session: Session, evidence_id: str) -> Job:
    """In the claiming transaction. Raises `Shredded` or `ModulePurged` where what it needs went meanwhile."""
    row = session.get_one(EvidenceRow, evidence_id, populate_existing=True)
    deposit = deposits.get(session, row.deposit_id)
    model = registry.by_id(session, deposit.model_id)
    assert deposit.revision is not None
    target = registry.stored_network(session, model)
    original = registry.revision_where_it_is(session, model, deposit.revision - 1)
    reference = registry.by_id(session, row.reference_id) if row.reference_id else None
    deposited = deposit_jobs.class_indices(session, [deposit.id])[deposit.id]
    held = set(registry.deposited(session, model.id))
    row.revision = target.revision
    return Job(
        id=row.id,
        token=row.token,
        attempt=row.attempts,
        restarts=row.restarts,
        deposit_id=deposit.id,
        deposit_revision=deposit.revision,
        class_names=model.class_names,
        deposited=deposited,
        preserved=[index for index in range(len(model.class_names)) if index not in held],
        preprocessing=registry.preprocessing_of(model),
        augmentation=deposit_jobs.config_of(deposit.config).augmentation,
        spec=registry.spec_of(model),
        target=target,
        original=original,
        module=None if deposit.purged_at else deposits.module(session, deposit),
        reference=registry.stored_network(session, reference) if reference else None,
        evaluation_set=datasets.stored(session, row.evaluation_set_id),
        members=datasets.stored_where_it_is(session, row.members_id) if row.members_id else None,
        are_members_its_own=row.members_id == deposit.dataset_id,
        membership={name: Attack(**found) for name, found in ((deposit.metrics or {}).get("membership") or {}).items()},
    )


def heartbeat(session: Session, settings: Settings, job: Job, progress: dict[str, Any]) -> None:
    """Renews the lease and tells the progress. Raises `NoLongerHeld`, `Destroyed`."""
    with session.begin():
        _change(session, job, lease_until=_lease(settings), progress=progress)
        _demand_there(session, job)


def finish(session: Session, job: Job, found: dict[str, Any]) -> None:
    """Keeps what was found; the audit keeps its digest, and of what it is. Raises `NoLongerHeld`, `Destroyed`."""
    with session.begin():
        deposits.locked(session, job.deposit_id)
        _demand_there(session, job)
        row = _change(session, job, state=State.FINISHED, finished_at=now(), lease_until=None, found=found)
        reference = registry.by_id(session, row.reference_id).name if row.reference_id else None
        details = {
            "revision": job.target.revision,
            "digest": digest(found),
            "examined": job.examined,
            "network": job.network,
        }
        _record(session, WORKER, row, "finished", **details, reference=reference)


def fail(session: Session, job: Job, reason: str) -> None:
    """Ends it without a result. Raises `NoLongerHeld`."""
    with session.begin():
        row = _change(session, job, state=State.FAILED, finished_at=now(), lease_until=None, failure=reason)
        _record(session, WORKER, row, "failed", failure=reason)


def is_destroyed(session: Session, job: Job) -> bool:
    """Whether something that it examines was purged, destroyed, replaced or discarded meanwhile."""
    with session.begin():
        return _is_destroyed(session, job)


def begin_again(session: Session, job: Job) -> None:
    """Queues it again for what is left of what it examines, ten times at most. Raises `NoLongerHeld`."""
    if job.restarts >= MOST_RESTARTS:
        why = "what it examines was replaced or destroyed again and again; ask for it once nothing is being deposited."
        fail(session, job, why)
    else:
        _queue(session, job, "what it examines was replaced or destroyed", job.attempt - 1, job.restarts + 1)


def give_back(session: Session, job: Job, failure: str | None, most: int) -> None:
    """Queues it again after a trouble that may pass, or fails it after so many attempts at most.

    `failure` says what the trouble was; None where the worker itself is being stopped, which is no attempt. Raises
    `NoLongerHeld`.
    """
    if failure is not None and job.attempt >= most:
        fail(session, job, f"after {job.attempt} attempts: {failure}")
    else:
        _queue(session, job, failure, job.attempt - (failure is None), job.restarts)


def _queue(session: Session, job: Job, trouble: str | None, attempts: int, restarts: int) -> None:
    counted = {"attempts": attempts, "restarts": restarts}
    with session.begin():
        row = _change(session, job, state=State.QUEUED, lease_until=None, rung_at=_long_ago(), **counted)
        _record(session, WORKER, row, "requeued", **counted, trouble=trouble)


def counts(session: Session) -> dict[str, int]:
    """How many examinations are in each state."""
    return count_by_state(session, EvidenceRow.state, State)


def reconcile(session: Session, settings: Settings) -> list[str]:
    """Puts right what a crash or a lost message left; returns the examinations whose doorbell is to be rung."""
    with session.begin():
        lost = EvidenceRow.state == State.RUNNING, EvidenceRow.lease_until < now()
        for row in session.scalars(sa.select(EvidenceRow).where(*lost)).all():
            _take_back(session, settings, row)
        if deposit_jobs.wait_for_a_worker(session):
            return []
        due = now() - timedelta(seconds=settings.doorbell_seconds)
        silent = sa.select(EvidenceRow.id).where(EvidenceRow.state == State.QUEUED, EvidenceRow.rung_at < due)
        ids = list(session.scalars(silent.order_by(EvidenceRow.id).limit(100)))
        session.execute(sa.update(EvidenceRow).where(EvidenceRow.id.in_(ids)).values(rung_at=now()))
    return ids


def _record(session: Session, actor: str, row: EvidenceRow, what: str, **details: Any) -> None:
    model = registry.by_id(session, deposits.get(session, row.deposit_id).model_id)
    told = {"deposit": row.deposit_id, **details}
    audit.record(session, actor, f"evidence.{what}", model=model.name, subject=row.id, details=told)


def _take_back(session: Session, settings: Settings, row: EvidenceRow) -> None:
    expired = sa.update(EvidenceRow).where(
        EvidenceRow.id == row.id,
        EvidenceRow.state == State.RUNNING,
        EvidenceRow.token == row.token,
        EvidenceRow.lease_until < now(),
    )
    lost = "the worker was lost too often while it ran; look at the worker's log, then ask for it again."
    if row.attempts < settings.max_attempts:
        if changes(session, expired.values(state=State.QUEUED, lease_until=None, rung_at=_long_ago())):
            _record(session, audit.RECONCILER, row, "requeued", attempts=row.attempts, trouble="the worker was lost")
        return
    ended = {"state": State.FAILED, "finished_at": now(), "lease_until": None, "failure": lost}
    if changes(session, expired.values(**ended)):
        _record(session, audit.RECONCILER, row, "failed", failure=lost)


def _demand_there(session: Session, job: Job) -> None:
    """Raises `Destroyed`."""
    if _is_destroyed(session, job):
        raise Destroyed(f"something that evidence {job.id} examines was destroyed meanwhile")


def _is_destroyed(session: Session, job: Job) -> bool:
    return bool(vaults.shredded_names(session, job.examined.values()))


def _change(session: Session, job: Job, **values: Any) -> EvidenceRow:
    """Changes that only the holder of the newest token can make."""
    held = EvidenceRow.id == job.id, EvidenceRow.state == State.RUNNING, EvidenceRow.token == job.token
    if not changes(session, sa.update(EvidenceRow).where(*held).values(**values)):
        raise NoLongerHeld(f"evidence {job.id} is not held with token {job.token} any more")
    return session.get_one(EvidenceRow, job.id, populate_existing=True)


def _lease(settings: Settings) -> datetime:
    return now() + timedelta(seconds=settings.lease_seconds)


def _long_ago() -> datetime:
    """When it was rung last, so that the reconciler rings in its next round."""
    return now() - timedelta(days=1)
