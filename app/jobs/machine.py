"""The life of a job, for every kind of job: claim, lease, heartbeat, checkpoints, requeue, cancel, recovery.

Each change of state is one guarded statement: of two workers only one wins, and the other one learns that it lost.
The row is the truth. `recover` repairs what a crash or a lost message left behind.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.base.database import changes, now
from app.base.errors import Problem
from app.base.settings import Settings
from app.jobs import checkpoints
from app.jobs.mixin import CANCELLED, FAILED, QUEUED, RUNNING, UNFINISHED, JobMixin
from app.vault.service import StoredObject, Vault

WORKER = "worker"  # the actor of what a worker does, in the audit
RUNG_AT_ONCE = 1000  # jobs that one round announces

log = logging.getLogger(__name__)


class Cancelled(Exception):
    """Somebody asked for this job to be cancelled."""


class LeaseLost(Exception):
    """The fencing token is stale: another worker has the job, or the job has ended."""


class AlreadyEnded(Exception):
    """The job is neither queued nor running."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A running job in the hands of one worker. `token` is its fencing token; `attempt` counts from 1."""

    id: str
    token: int
    attempt: int


RowT = TypeVar("RowT", bound=JobMixin)
JobT = TypeVar("JobT", bound=Claim)


class JobMachine(Generic[RowT, JobT]):
    """One kind of job. A subclass names its row and says what is its own; everything else stands here.

    Methods open their own transaction unless they say that they run in the caller's.
    """

    row: type[RowT]
    states: type[StrEnum]
    name: ClassVar[str]  # begins its audit actions, such as `deposit.started`
    task: ClassVar[str]  # the doorbell's message
    ends_at_once: ClassVar[bool] = False  # a running job is cancelled without waiting for its worker

    # What a kind says of its jobs. All of these run in the caller's transaction.

    def read(self, session: Session, row: RowT) -> JobT:
        """Everything that the work needs, read in the transaction that claims the job."""
        raise NotImplementedError

    def model_name(self, session: Session, row: RowT) -> str:
        """The model whose audit tells of the job."""
        raise NotImplementedError

    def details(self, row: RowT) -> dict[str, Any]:
        """What every audit event of the job says besides its own details."""
        return {}

    def lock(self, session: Session, job_id: str) -> None:
        """Take the locks that reading the job needs, before it is claimed."""

    def must_wait(self, session: Session) -> bool:
        """Whether no job of this kind may start now."""
        return False

    def ready(self) -> tuple[sa.ColumnElement[bool], ...]:
        """What must hold for a queued job to be announced."""
        return ()

    def release(self, session: Session, row: RowT, actor: str) -> list[str]:
        """Give up what an ended job used. Returns vault names to remove after the transaction."""
        return []

    def check(self, session: Session, job: JobT) -> None:
        """Called with each heartbeat. Raises if what the job works on is gone."""

    def may_keep(self, session: Session, job: JobT, part: str) -> bool:
        """Whether a checkpoint of this part may still be kept."""
        return True

    # A worker takes a job and holds it.

    def claim(self, session: Session, vault: Vault, settings: Settings, job_id: str) -> JobT | None:
        """Take a queued job. None: it is not queued, must wait, or cannot be started (then it has failed)."""
        garbage: list[str] = []
        job: JobT | None = None
        try:
            with session.begin():
                self.lock(session, job_id)
                queued = sa.update(self.row).where(self.row.id == job_id, self.row.state == QUEUED)
                if self.must_wait(session):
                    session.execute(queued.values(rung_at=_overdue()))  # announced as soon as it may start
                    return None
                claimed = queued.values(
                    state=RUNNING,
                    token=self.row.token + 1,
                    attempts=self.row.attempts + 1,
                    lease_until=_lease(settings),
                    started_at=sa.func.coalesce(self.row.started_at, now()),
                    progress={"phase": "starting"},
                )
                if not changes(session, claimed):
                    return None
                row = self._current(session, job_id)
                try:
                    with session.begin_nested():
                        job = self.read(session, row)
                except SQLAlchemyError:
                    raise
                except Exception as error:
                    log.exception("%s %s cannot be started", self.name, job_id)
                    reason = error.detail if isinstance(error, Problem) else reason_of(error)
                    garbage = self._fail_unstarted(session, job_id, f"It cannot be started: {reason}")
                else:
                    self.record(session, WORKER, row, "started", attempt=job.attempt, token=job.token)
        except IntegrityError:  # a unique index: another job of the same model runs
            return None
        vault.remove(garbage)
        return job

    def heartbeat(self, session: Session, settings: Settings, job: JobT, **values: Any) -> None:
        """Renew the lease and write down `values`, such as the progress. Raises `Cancelled`, `LeaseLost`."""
        with session.begin():
            self.change(session, job, lease_until=_lease(settings), **values)
            self.check(session, job)

    def keep_checkpoint(
        self, session: Session, vault: Vault, settings: Settings, job: JobT, part: str, checkpoint: StoredObject
    ) -> None:
        """Keep where a part of the work is, in place of its older checkpoint. Raises `Cancelled`, `LeaseLost`."""
        with vault.discarded_on_error(checkpoint), session.begin():
            is_wanted = self.may_keep(session, job, part)
            self.change(session, job, lease_until=_lease(settings))
            garbage = checkpoints.replace(session, job.id, part, checkpoint) if is_wanted else [checkpoint.name]
        vault.remove(garbage)

    def change(self, session: Session, job: JobT, *, even_if_cancelled: bool = False, **values: Any) -> RowT:
        """In the caller's transaction: what only the holder of the newest token can change.

        Returns the row as it is then. Raises `Cancelled`, `LeaseLost`.
        """
        row = self.row
        held = sa.update(row).where(row.id == job.id, row.state == RUNNING, row.token == job.token)
        if not even_if_cancelled:
            held = held.where(row.is_cancel_requested.is_(False))
        is_changed = changes(session, held.values(**values))
        current = self._current(session, job.id)
        if is_changed:
            return current
        if current.token == job.token and current.state == RUNNING:
            raise Cancelled(job.id)
        raise LeaseLost(f"{self.name} {job.id} is {current.state} with token {current.token}; this is {job.token}")

    # A worker ends a job, or gives it back.

    def fail(self, session: Session, vault: Vault, job: JobT, reason: str) -> None:
        """End the job without a result. Raises `LeaseLost`."""
        self._end(session, vault, job, FAILED, failure=reason)

    def confirm_cancelled(self, session: Session, vault: Vault, job: JobT) -> None:
        """End a running job that was asked to stop. Raises `LeaseLost`."""
        self._end(session, vault, job, CANCELLED)

    def give_back(self, session: Session, vault: Vault, settings: Settings, job: JobT, trouble: str | None) -> None:
        """Queue the job again after a trouble that may pass; fail it if that happened too often.

        trouble: None if the worker itself is being stopped, which does not count as an attempt.
        Raises `Cancelled`, `LeaseLost`.
        """
        if trouble is not None and job.attempt >= settings.max_attempts:
            self.fail(session, vault, job, f"After {job.attempt} attempts: {trouble}")
        else:
            self.requeue(session, vault, job, trouble, attempts=job.attempt - (trouble is None))

    def requeue(self, session: Session, vault: Vault, job: JobT, trouble: str | None, **values: Any) -> None:
        """Queue the job again with these values. New settings make its checkpoints useless, so these go.

        Raises `Cancelled`, `LeaseLost`.
        """
        with session.begin():
            row = self.change(session, job, state=QUEUED, lease_until=None, rung_at=_overdue(), **values)
            garbage = checkpoints.delete(session, [job.id]) if "config" in values else []
            counts = {name: values[name] for name in ("attempts", "restarts") if name in values}
            self.record(session, WORKER, row, "requeued", **counts, trouble=trouble)
        vault.remove(garbage)

    def released(self, session: Session, row: RowT, actor: str) -> list[str]:
        """In the caller's transaction, of a job that has ended: returns the vault names to remove after it."""
        return checkpoints.delete(session, [row.id]) + self.release(session, row, actor)

    def _end(self, session: Session, vault: Vault, job: JobT, state: str, failure: str | None = None) -> None:
        with session.begin():
            values = {"state": state, "finished_at": now(), "lease_until": None, "failure": failure}
            row = self.change(session, job, even_if_cancelled=True, **values)
            self.record(session, WORKER, row, state, **({"failure": failure} if failure else {}))
            garbage = self.released(session, row, WORKER)
        vault.remove(garbage)

    def _fail_unstarted(self, session: Session, job_id: str, failure: str) -> list[str]:
        row = self._current(session, job_id)
        row.state, row.finished_at, row.lease_until, row.failure = FAILED, now(), None, failure
        session.flush()
        self.record(session, WORKER, row, FAILED, failure=failure)
        return self.released(session, row, WORKER)

    # Others end or repair jobs.

    def cancel(self, session: Session, row: RowT, actor: str) -> list[str]:
        """In the caller's transaction: end a queued job, and ask a running one to stop (`ends_at_once`: end it, too).

        Returns the vault names to remove after it. Raises `AlreadyEnded`.
        """
        columns = self.row
        states = (QUEUED, RUNNING) if self.ends_at_once else (QUEUED,)
        ended = sa.update(columns).where(columns.id == row.id, columns.state.in_(states))
        values = {"state": CANCELLED, "finished_at": now(), "lease_until": None, "is_cancel_requested": True}
        if changes(session, ended.values(**values)):
            session.refresh(row)
            self.record(session, actor, row, CANCELLED)
            return self.released(session, row, actor)
        running = sa.update(columns).where(columns.id == row.id, columns.state == RUNNING)
        is_asked = changes(
            session, running.where(columns.is_cancel_requested.is_(False)).values(is_cancel_requested=True)
        )
        session.refresh(row)
        if is_asked:
            self.record(session, actor, row, "cancel_requested")
        elif row.state != RUNNING:
            raise AlreadyEnded(row.id)
        return []

    def cancel_all(self, session: Session, actor: str, *which: sa.ColumnElement[bool]) -> list[str]:
        """In the caller's transaction: cancel every unfinished job of these.

        Returns the vault names to remove after it.
        """
        unfinished = sa.select(self.row).where(self.row.state.in_(UNFINISHED), *which)
        return [name for row in session.scalars(unfinished).all() for name in self.cancel(session, row, actor)]

    def recover(self, session: Session, vault: Vault, settings: Settings) -> list[str]:
        """Repair what a crash or a lost message left. Returns the ids of the jobs whose doorbell is to be rung.

        A running job whose lease ran out is queued again or, after too many attempts, failed. A queued one that was not
        announced for a while is announced again.
        """
        row = self.row
        garbage: list[str] = []
        ids: list[str] = []
        with session.begin():
            lost = sa.select(row).where(row.state == RUNNING, row.lease_until < now())
            for job in session.scalars(lost).all():
                garbage += self._take_back(session, settings, job)
            if not self.must_wait(session):
                due = now() - timedelta(seconds=settings.doorbell_seconds)
                silent = sa.select(row.id).where(row.state == QUEUED, row.rung_at < due, *self.ready())
                ids = list(session.scalars(silent.order_by(row.id).limit(RUNG_AT_ONCE)))
                session.execute(sa.update(row).where(row.id.in_(ids)).values(rung_at=now()))
        vault.remove(garbage)
        return ids

    def _take_back(self, session: Session, settings: Settings, row: RowT) -> list[str]:
        """In the caller's transaction: from a worker that let its lease run out."""
        columns = self.row
        expired = sa.update(columns).where(
            columns.id == row.id, columns.state == RUNNING, columns.token == row.token, columns.lease_until < now()
        )
        ended = {"finished_at": now(), "lease_until": None}
        values: dict[str, Any]
        details: dict[str, Any] = {"attempts": row.attempts}
        if row.is_cancel_requested:
            event, values = CANCELLED, {"state": CANCELLED, **ended}
        elif row.attempts >= settings.max_attempts:
            failure = f"The worker was lost {row.attempts} times. Look at the worker's log, then request it again."
            event, values = FAILED, {"state": FAILED, "failure": failure, **ended}
            details["failure"] = failure
        else:
            event, values = "requeued", {"state": QUEUED, "lease_until": None, "rung_at": _overdue()}
            details["trouble"] = "The worker was lost."
        if not changes(session, expired.values(**values)):
            return []
        session.refresh(row)
        self.record(session, audit.RECONCILER, row, event, **details)
        return [] if event == "requeued" else self.released(session, row, audit.RECONCILER)

    # What others ask.

    def counts(self, session: Session) -> dict[str, int]:
        """How many jobs are in each state."""
        totals = dict(session.execute(sa.select(self.row.state, sa.func.count()).group_by(self.row.state)).all())
        return {state: totals.get(state, 0) for state in self.states}

    def oldest_ready(self, session: Session) -> str | None:
        """The oldest queued job that may start now."""
        if self.must_wait(session):
            return None
        ready = self.row.state == QUEUED, *self.ready()
        return session.scalar(sa.select(self.row.id).where(*ready).order_by(self.row.id).limit(1))

    def oldest_queued(self, session: Session) -> datetime | None:
        """Since when the oldest queued job waits."""
        return session.scalar(sa.select(sa.func.min(self.row.created_at)).where(self.row.state == QUEUED))

    def record(
        self, session: Session, actor: str, row: RowT, event: str, *, reason: str | None = None, **details: Any
    ) -> None:
        """Add an audit event of the job to the caller's transaction."""
        audit.record(
            session,
            actor,
            f"{self.name}.{event}",
            model=self.model_name(session, row),
            subject=row.id,
            reason=reason,
            details={**self.details(row), **details},
        )

    def _current(self, session: Session, job_id: str) -> RowT:
        return session.get_one(self.row, job_id, populate_existing=True)


def reason_of(error: Exception) -> str:
    """What users read about an error that nobody expected: its kind only, since its text may hold anything."""
    return f"{type(error).__name__} in the worker. The worker's log has the details."


def _lease(settings: Settings) -> datetime:
    return now() + timedelta(seconds=settings.lease_seconds)


def _overdue() -> datetime:
    """A time of the last ring that is so long ago that the next round rings again."""
    return now() - timedelta(days=1)
