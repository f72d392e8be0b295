"""The one task. torch is imported in the pool's child only, ahead of its first message: the parent stays small."""

from functools import cache
from typing import TYPE_CHECKING, Any

from celery.signals import worker_process_init

from app.deposits.doorbell import TASK
from app.settings import Settings
from worker.celery_app import app

if TYPE_CHECKING:
    from worker.job import Work


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def run_deposit(deposit_id: str) -> None:
    """Does nothing when the deposit is not queued any more: messages may come twice, late or never."""
    from worker.job import work_on

    work_on(_work(), deposit_id)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _prepare(**_: Any) -> None:
    _work()


@cache
def _work() -> "Work":
    import lirf_core.resnet  # noqa: F401
    from worker.job import Work

    return Work(Settings())
