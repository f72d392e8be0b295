"""The worker's pool: each job runs in a fork of a process that has imported what jobs need (worker/preloaded.py).

A child that Celery spawns would import torch for seconds before each job.
"""

from typing import Any

import billiard
from billiard.pool import Pool
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool


def _fork_server() -> Any:
    """Celery itself offers fork and spawn only."""
    context = billiard.get_context("forkserver")
    context.set_forkserver_preload(["worker.preloaded"])
    return context


class BlockingPool(Pool):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, context=_fork_server(), **options)


class AsynchronousPool(AsynPool):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, context=_fork_server(), **options)


class ForkServerPool(TaskPool):  # type: ignore[misc]
    """Celery's prefork pool. A broker without an event loop gets the first kind, Redis the second."""

    BlockingPool, Pool = BlockingPool, AsynchronousPool
