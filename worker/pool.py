"""The worker's pool: each job runs in a fork of a process that has imported what jobs need (worker/preloaded.py).

A child that Celery spawns would import torch for seconds before each job.
"""

import multiprocessing
import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from typing import Any

import billiard
from billiard.pool import Pool
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool

SHORT = 60  # bytes; the path of a socket has at most 107, and billiard adds two names


def _fork_server() -> Any:
    """Celery itself offers fork and spawn only."""
    if len(os.fsencode(tempfile.gettempdir())) > SHORT:
        _keep_sockets_in(tempfile.mkdtemp(prefix="lirf-", dir="/tmp"))
    context = billiard.get_context("forkserver")
    context.set_forkserver_preload(["worker.preloaded"])
    return context


def _keep_sockets_in(folder: str) -> None:
    """In place of a folder in TMPDIR, whose path is too long for a socket."""
    multiprocessing.current_process()._config["tempdir"] = folder  # type: ignore[attr-defined]  # billiard's, too
    Finalize(None, shutil.rmtree, args=[folder, True], exitpriority=-100)


class BlockingPool(Pool):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, context=_fork_server(), **options)


class AsynchronousPool(AsynPool):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, context=_fork_server(), **options)


class ForkServerPool(TaskPool):  # type: ignore[misc]
    """Celery's prefork pool. A broker without an event loop gets the first kind, Redis the second."""

    BlockingPool, Pool = BlockingPool, AsynchronousPool
