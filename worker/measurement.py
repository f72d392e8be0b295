"""A measurement on request, step by step: open the networks, ask them, keep the figures."""

import logging

from opentelemetry import trace
from sqlalchemy.orm import Session

from app.measurements.figures import figures_of
from app.measurements.jobs import JOBS, Job
from lirf_core import artifacts
from lirf_core.compute import OutOfMemory
from lirf_core.recover import RecoverNetwork
from lirf_core.tally import Tally
from worker.deposited_rows import open_whole, rows_of
from worker.heartbeat import Heartbeat
from worker.images import labelled
from worker.measuring import Measuring
from worker.runner import run
from worker.work import Work

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


def measure(work: Work, measurement_id: str) -> bool:
    """Claim and carry out one measurement. Returns whether it could be claimed."""
    return run(work, JOBS, measurement_id, _carry_out, _handle) is not None


def _handle(work: Work, session: Session, job: Job, error: Exception) -> bool:
    if isinstance(error, OutOfMemory):
        log.error("measurement %s needs more memory", job.id, exc_info=error)
        JOBS.fail(session, work.vault, job, "The device has too little memory. Measure fewer deposits together.")
        return True
    return False


def _carry_out(work: Work, session: Session, job: Job) -> None:
    with tracer.start_as_current_span("measure", record_exception=False) as span:
        span.set_attributes({"lirf.measurement": job.id, "lirf.attempt": job.attempt})
        heartbeat = Heartbeat(work, JOBS, job, "Measure with fewer held-out images or fewer deposits")
        heartbeat.phase("loading")
        held_out = labelled(work, heartbeat.vault, job.evaluation_set)
        on_batch = heartbeat.phase("evaluating")
        measuring = Measuring(
            held_out,
            held_out.of_classes([]),
            job.class_names,
            job.preprocessing,
            work.inference,
            on_batch,
        )
        belonging = job.target.belonging
        deposited_rows = rows_of(job.all_modules, belonging, heartbeat.vault)
        target = open_whole(job.target, deposited_rows, heartbeat.vault)
        original = target if job.target.revision == 0 else None
        if original is None and job.original:
            original = open_whole(job.original, deposited_rows, heartbeat.vault)
        modules = {
            deposit_id: artifacts.load_module(heartbeat.vault.read(module.stored), belonging)
            for deposit_id, module in job.modules.items()
        }
        views: list[tuple[list[str], Tally, list[int]]] = []
        for ids in job.sets:
            joined = RecoverNetwork(target, [modules[i] for i in ids], belonging.upper_digest, job.preserved)
            tally = measuring.tally(joined if ids else target)
            assert tally is not None
            views.append((ids, tally, sorted(index for i in ids for index in job.modules[i].classes)))
        figures = figures_of(views, measuring.tally(original) if original else None, job.class_names, job.preserved)
    JOBS.finish(session, job, figures)
