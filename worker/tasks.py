"""The two tasks. torch is imported in the pool's child only, ahead of its first message: the parent stays small."""

import os
import signal
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from celery.signals import worker_process_init, worker_ready

from app.base.settings import Settings
from app.jobs.doorbell import DEPOSIT, EXAMINE
from app.telemetry import traces
from worker.celery_app import app
from worker.orphan import is_orphaned

if TYPE_CHECKING:
    from worker.deposit import Work


@app.task(name=DEPOSIT)  # type: ignore[untyped-decorator]
def run_deposit(deposit_id: str) -> None:
    """Does nothing when the deposit is not queued any more: messages may come twice, late or never."""
    from worker.deposit import work_on

    try:
        work_on(_work(), deposit_id)
    finally:
        traces.flush()  # this process ends with its task


@app.task(name=EXAMINE)  # type: ignore[untyped-decorator]
def examine_deposit(evidence_id: str) -> None:
    """As `run_deposit`, for the evidence of one."""
    from worker.examination import examine

    try:
        examine(_work(), evidence_id)
    finally:
        traces.flush()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _prepare(**_: Any) -> None:
    traces.configure(Settings(), "lirf-worker")
    _work()


@worker_ready.connect  # type: ignore[untyped-decorator]
def _watch(**_: Any) -> None:
    threading.Thread(target=_end_when_useless, daemon=True).start()


def _end_when_useless() -> None:
    """Ends this worker when its pool cannot be repaired, or when `lirf up`, which started it, is gone.

    With a broker that has no event loop (the SQLite file), billiard's thread "Supervisor" replaces dead children. Where
    it has crashed itself, the worker would stay up and do nothing; whoever runs it starts it again.
    """
    supervisors = [thread for thread in threading.enumerate() if type(thread).__name__ == "Supervisor"]
    while all(thread.is_alive() for thread in supervisors) and not is_orphaned():
        time.sleep(1)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


@cache
def _work() -> "Work":
    import torch._dynamo  # noqa: F401 - which optimizers import when they are first used, for seconds

    import lirf_core.architectures.resnet  # noqa: F401
    from worker.deposit import Work

    return Work(Settings())
