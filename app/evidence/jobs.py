"""The life of an examination: every change is one guarded statement, so that of two workers only one can win.

Nothing of a model changes by it, and it stores no object: who loses it leaves nothing behind.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.database import changes, now
from app.datasets import service as datasets
from app.deposits import jobs as deposit_jobs
from app.deposits import service as deposits
from app.errors import Problem
from app.evidence.digests import digest
from app.evidence.tables import EvidenceRow, State
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.settings import Settings
from app.vault.service import StoredObject
from lirf_core.architectures import ArchitectureSpec
from lirf_core.data import Augmentation, Preprocessing
from lirf_core.evidence.membership import Attack

WORKER = deposit_jobs.WORKER


class NoLongerHeld(Exception):
    """The token is stale: the examination is another worker's, or was cancelled."""


@dataclass(frozen=True)
class Job:
    """A claimed examination: everything the work needs, read in the claiming transaction.

    `original` is None where the policy had it destroyed, `module` where it was purged; `membership` is what was
    measured when the deposit was made.
    """

    id: str
    token: int
    attempt: int
    deposit_id: str
    model_name: str
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
    membership: dict[str, Attack]


def claim(session: Session, settings: Settings, evidence_id: str) -> Job | None:
    """Takes a queued examination. None: nothing to do here (any more)."""
    with session.begin():
        claimed = changes(
            session,
            sa.update(EvidenceRow)
            .where(EvidenceRow.id == evidence_id, EvidenceRow.state == State.QUEUED)
            .values(
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
                return _job(session, evidence_id)
        except Problem as gone:
            row = session.get_one(EvidenceRow, evidence_id, populate_existing=True)
            row.state, row.finished_at, row.lease_until, row.failure = State.FAILED, now(), None, gone.detail
            model = registry.by_id(session, deposits.get(session, row.deposit_id).model_id)
            _record_failure(session, WORKER, model.name, row.id, row.deposit_id, gone.detail)
    return None


def _job(session: Session, evidence_id: str) -> Job:
    """In the claiming transaction. Raises `Shredded` or `ModulePurged` where what it needs went meanwhile."""
    row = session.get_one(EvidenceRow, evidence_id)
    deposit = deposits.get(session, row.deposit_id)
    model = registry.by_id(session, deposit.model_id)
    assert deposit.revision is not None
    target = registry.stored_network(session, model)
    original = registry.revision_where_it_is(session, model, deposit.revision - 1)
    reference = registry.by_id(session, row.reference_id) if row.reference_id else None
    deposited = deposit_jobs.class_indices(session, [deposit.id])[deposit.id]
    held = {one.class_index for one in registry.classes(session, model.id) if one.deposit_id}
    row.revision = target.revision
    return Job(
        id=row.id,
        token=row.token,
        attempt=row.attempts,
        deposit_id=deposit.id,
        model_name=model.name,
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
        members=datasets.stored(session, row.members_id) if row.members_id else None,
        membership={name: Attack(**found) for name, found in ((deposit.metrics or {}).get("membership") or {}).items()},
    )


def heartbeat(session: Session, settings: Settings, job: Job, progress: dict[str, Any]) -> None:
    """Renews the lease and tells the progress. Raises `NoLongerHeld`."""
    with session.begin():
        _change(session, job, lease_until=_lease(settings), progress=progress)


def finish(session: Session, job: Job, found: dict[str, Any]) -> None:
    """Keeps what was found; the audit keeps its digest. Raises `NoLongerHeld`."""
    with session.begin():
        _change(session, job, state=State.FINISHED, finished_at=now(), lease_until=None, found=found)
        details = {"deposit": job.deposit_id, "revision": job.target.revision, "digest": digest(found)}
        audit.record(session, WORKER, "evidence.finished", model=job.model_name, subject=job.id, details=details)


def fail(session: Session, job: Job, reason: str) -> None:
    """Ends it without a result. Raises `NoLongerHeld`."""
    with session.begin():
        _change(session, job, state=State.FAILED, finished_at=now(), lease_until=None, failure=reason)
        _record_failure(session, WORKER, job.model_name, job.id, job.deposit_id, reason)


def give_back(session: Session, settings: Settings, job: Job, failure: str | None) -> None:
    """Queues it again after a trouble that may pass, or fails it when that happened too often.

    `failure` says what the trouble was; None where the worker itself is being stopped, which is no attempt.
    Raises `NoLongerHeld`.
    """
    if failure is not None and job.attempt >= settings.max_attempts:
        fail(session, job, f"after {job.attempt} attempts: {failure}")
    else:
        with session.begin():
            again = {"attempts": job.attempt - (failure is None), "rung_at": now() - timedelta(days=1)}
            _change(session, job, state=State.QUEUED, lease_until=None, **again)


def reconcile(session: Session, settings: Settings) -> list[str]:
    """Puts right what a crash or a lost message left; returns the examinations whose doorbell is to be rung."""
    with session.begin():
        lost = EvidenceRow.state == State.RUNNING, EvidenceRow.lease_until < now()
        for row in session.scalars(sa.select(EvidenceRow).where(*lost)).all():
            _take_back(session, settings, row)
        due = now() - timedelta(seconds=settings.doorbell_seconds)
        silent = sa.select(EvidenceRow.id).where(EvidenceRow.state == State.QUEUED, EvidenceRow.rung_at < due)
        ids = list(session.scalars(silent.order_by(EvidenceRow.id).limit(100)))
        session.execute(sa.update(EvidenceRow).where(EvidenceRow.id.in_(ids)).values(rung_at=now()))
    return ids


def _record_failure(session: Session, actor: str, model: str, evidence_id: str, deposit_id: str, failure: str) -> None:
    details = {"deposit": deposit_id, "failure": failure}
    audit.record(session, actor, "evidence.failed", model=model, subject=evidence_id, details=details)


def _take_back(session: Session, settings: Settings, row: EvidenceRow) -> None:
    expired = sa.update(EvidenceRow).where(
        EvidenceRow.id == row.id,
        EvidenceRow.state == State.RUNNING,
        EvidenceRow.token == row.token,
        EvidenceRow.lease_until < now(),
    )
    if row.attempts < settings.max_attempts:
        again = {"state": State.QUEUED, "lease_until": None, "rung_at": now() - timedelta(days=1)}
        changes(session, expired.values(**again))
        return
    failure = "the worker was lost too often while it ran; look at the worker's log, then ask for it again."
    ended = {"state": State.FAILED, "finished_at": now(), "lease_until": None, "failure": failure}
    if changes(session, expired.values(**ended)):
        model = registry.by_id(session, deposits.get(session, row.deposit_id).model_id)
        _record_failure(session, audit.RECONCILER, model.name, row.id, row.deposit_id, failure)


def _change(session: Session, job: Job, **values: Any) -> None:
    """Changes that only the holder of the newest token can make."""
    held = EvidenceRow.id == job.id, EvidenceRow.state == State.RUNNING, EvidenceRow.token == job.token
    if not changes(session, sa.update(EvidenceRow).where(*held).values(**values)):
        raise NoLongerHeld(f"evidence {job.id} is not held with token {job.token} any more")


def _lease(settings: Settings) -> datetime:
    return now() + timedelta(seconds=settings.lease_seconds)
