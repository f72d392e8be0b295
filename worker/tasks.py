"""One task for each kind of job. Only the pool's children have torch."""

import os
import signal
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from celery.signals import worker_process_init, worker_ready

from app.base.settings import Settings
from app.jobs.doorbell import DEPOSIT, EXAMINE, HARDEN, MEASURE, REBASE
from app.telemetry import traces
from worker import life_sign
from worker.celery_app import app
from worker.orphan import is_orphaned
from worker.waiting import DoorbellRequest, oldest

if TYPE_CHECKING:
    from worker.work import Work


@app.task(name=DEPOSIT, Request=DoorbellRequest)  # type: ignore[untyped-decorator]
def run_deposit(deposit_id: str) -> None:
    """Carry out the oldest job that waits, whichever it is: messages may come twice, late or never."""
    _carry_out_the_oldest()


@app.task(name=REBASE, Request=DoorbellRequest)  # type: ignore[untyped-decorator]
def rebase_model(rebase_id: str) -> None:
    """As `run_deposit`."""
    _carry_out_the_oldest()


@app.task(name=HARDEN, Request=DoorbellRequest)  # type: ignore[untyped-decorator]
def harden_target(hardening_id: str) -> None:
    """As `run_deposit`."""
    _carry_out_the_oldest()


@app.task(name=EXAMINE, Request=DoorbellRequest)  # type: ignore[untyped-decorator]
def examine_deposit(evidence_id: str) -> None:
    """As `run_deposit`."""
    _carry_out_the_oldest()


@app.task(name=MEASURE, Request=DoorbellRequest)  # type: ignore[untyped-decorator]
def measure_model(measurement_id: str) -> None:
    """As `run_deposit`."""
    _carry_out_the_oldest()


def _carry_out_the_oldest() -> None:
    """Another worker may take it first; then the next one is the oldest."""
    from worker.deposit import work_on
    from worker.examination import examine
    from worker.hardening import harden_target as harden
    from worker.measurement import measure
    from worker.rebase import rebase_model as rebase

    work = _work()
    carry_out = {DEPOSIT: work_on, REBASE: rebase, HARDEN: harden, EXAMINE: examine, MEASURE: measure}
    try:
        while (waiting := oldest(work.database)) and not carry_out[waiting.task](work, waiting.job_id):
            pass
        if following := oldest(work.database):
            work.doorbell.ring(*following)
    finally:
        traces.flush()  # this process ends with its task


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _prepare(**_: Any) -> None:
    from app.deposits import separation

    traces.configure(Settings(), "lirf-worker")
    work = _work()
    # Of models that an earlier version stored. It may take longer than a child may take to say that it is up.
    arguments = work.database, work.vault
    threading.Thread(target=separation.separate_all, args=arguments, name="separation", daemon=True).start()


@worker_ready.connect  # type: ignore[untyped-decorator]
def _watch(**_: Any) -> None:
    threading.Thread(target=_end_when_useless, daemon=True).start()


def _end_when_useless() -> None:
    """End this worker when its pool cannot be repaired, or when the `lirf up` that started it is gone.

    With a broker that has no event loop (the SQLite file), billiard's thread "Supervisor" replaces dead children. If
    that thread crashed, the worker would stay up and do nothing. Ended, it is started again by whatever runs it.
    """
    supervisors = [thread for thread in threading.enumerate() if type(thread).__name__ == "Supervisor"]
    while all(thread.is_alive() for thread in supervisors) and not is_orphaned():
        life_sign.send()
        time.sleep(1)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


@cache
def _work() -> "Work":
    from worker.work import Work

    return Work(Settings())
