"""A rebase, step by step: as a deposit of all outstanding deposits' classes, with a group for each of them."""

import logging

from opentelemetry import trace
from sqlalchemy.orm import Session

from app.deposits import separation
from app.deposits.jobs import Job, ModuleReplaced
from app.rebases.jobs import JOBS
from app.vault import erasure
from lirf_core.compute import OutOfMemory
from worker.deposit import make
from worker.runner import run
from worker.training import TrainingHeartbeat
from worker.work import Work

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


def rebase_model(work: Work, rebase_id: str) -> bool:
    """Claim and carry out one rebase. Returns whether it could be claimed."""
    return run(work, JOBS, rebase_id, _carry_out, _handle) is not None


def _handle(work: Work, session: Session, job: Job, error: Exception) -> bool:
    if isinstance(error, OutOfMemory):
        log.error("rebase %s needs more memory", job.id, exc_info=error)
        reason = "The device has too little memory. Ask for a smaller batch_size, or give the worker another device."
        JOBS.fail(session, work.vault, job, reason)
        return True
    if isinstance(error, ModuleReplaced):  # no fault of the rebase, so it does not count as an attempt
        JOBS.requeue(session, work.vault, job, str(error), attempts=job.attempt - 1)
        return True
    return False


def _carry_out(work: Work, session: Session, job: Job) -> None:
    with tracer.start_as_current_span("rebase", record_exception=False) as span:
        span.set_attributes({"lirf.rebase": job.id, "lirf.attempt": job.token})
        heartbeat = TrainingHeartbeat(work, JOBS, job, "Ask for fewer epochs or fewer images")
        heartbeat.phase("loading")
        if job.network.rows is None:  # an earlier version stored the model
            separation.separate(work.database, heartbeat.vault, job.model_id)
            job = JOBS.read_again(session, job)
        result, figures = make(work, session, job, heartbeat)
        JOBS.publish(session, work.vault, job, result, figures)
        erasure.finish(work.database, work.vault)
