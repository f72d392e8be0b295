"""A rebase, step by step: as a deposit of all outstanding deposits' classes, with a group for each of them."""

import logging
from dataclasses import replace

from opentelemetry import trace
from sqlalchemy.orm import Session

from app.deposits import separation
from app.deposits.jobs import ModuleReplaced, Result
from app.rebases.jobs import JOBS, RebaseJob
from app.vault import erasure
from lirf_core.compute import OutOfMemory
from lirf_core.evidence.intervals import interval
from lirf_core.metrics import tally
from lirf_core.tally import Tally
from worker.deposit import make
from worker.deposited_rows import open_whole, rows_of
from worker.images import labelled, together
from worker.measuring import Measuring
from worker.runner import run
from worker.training import TrainingHeartbeat
from worker.work import Work

MAX_POINTS_MORE = 5.0  # of a deposited class, that a new target may answer more than the one in service
log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


class ForgetsLess(ValueError):
    """The new target clearly answers more of a deposited class than the target in service."""


def rebase_model(work: Work, rebase_id: str) -> bool:
    """Claim and carry out one rebase. Returns whether it could be claimed."""
    return run(work, JOBS, rebase_id, _carry_out, _handle) is not None


def _handle(work: Work, session: Session, job: RebaseJob, error: Exception) -> bool:
    if isinstance(error, OutOfMemory):
        log.error("rebase %s needs more memory", job.id, exc_info=error)
        reason = "The device has too little memory. Ask for a smaller batch_size, or give the worker another device."
        JOBS.fail(session, work.vault, job, reason)
        return True
    if isinstance(error, ModuleReplaced):  # no fault of the rebase, so it does not count as an attempt
        JOBS.requeue(session, work.vault, job, str(error), attempts=job.attempt - 1)
        return True
    return False


def _carry_out(work: Work, session: Session, job: RebaseJob) -> None:
    with tracer.start_as_current_span("rebase", record_exception=False) as span:
        span.set_attributes({"lirf.rebase": job.id, "lirf.attempt": job.token})
        heartbeat = TrainingHeartbeat(work, JOBS, job, "Ask for fewer epochs or fewer images")
        heartbeat.phase("loading")
        if job.network.rows is None:  # an earlier version stored the model
            separation.separate(work.database, heartbeat.vault, job.model_id)
            job = JOBS.read_again(session, job)
        result, figures = make(work, session, job, heartbeat)
        with work.vault.discarded_on_error(*result.objects):
            _demand_forgotten(work, job, result, heartbeat)
        JOBS.publish(session, work.vault, job, result, figures)
        erasure.finish(work.database, work.vault)


@tracer.start_as_current_span("compare", record_exception=False)
def _demand_forgotten(work: Work, job: RebaseJob, result: Result, heartbeat: TrainingHeartbeat) -> None:
    """Images that show something else must not bring back what was forgotten. Raises `ForgetsLess`.

    Both targets are asked with the deposited rows in place, about each class: on evaluation images or, where there are
    none, on those of the rebase.
    """
    on_batch, vault = heartbeat.phase("evaluating"), heartbeat.vault
    rows = rows_of([one.stored for one in job.replaced_modules], job.network.belonging, vault)
    new = replace(job.network, lower=result.target, rows=result.rows)
    shown = together([labelled(work, vault, stored).of_classes(job.deposited) for stored in job.deposit_sets])
    held_out = labelled(work, vault, job.evaluation_set) if job.evaluation_set else shown.of_classes([])
    unseen = [index for index in job.deposited if index not in held_out.classes()]
    measuring = Measuring(None, shown, job.class_names, job.preprocessing, work.inference, on_batch)
    before, after = (open_whole(network, rows, vault) for network in (job.current, new))
    for images in (held_out.of_classes(job.deposited), shown.of_classes(unseen)):
        if len(images):
            tallies = [tally(measuring.logits(network, images), images.labels) for network in (before, after)]
            _demand_no_more(job, *tallies)


def _demand_no_more(job: RebaseJob, before: Tally, after: Tally) -> None:
    for index in job.deposited:
        was, now = before.percent([index]), after.percent([index])
        if was is None or now is None:
            continue
        at_least = interval(now, after.images[index], 0.05 / len(job.deposited))[0]
        if at_least > was + MAX_POINTS_MORE:
            raise ForgetsLess(
                f"It was not published, and nothing was changed. The new target answers {now:.1f} % of "
                f"{after.images[index]} images of the deposited class “{job.class_names[index]}”; the target in "
                f"service answers {was:.1f} %. Check that the images of the rebase show the deposited classes, or "
                "upload more of them."
            )
