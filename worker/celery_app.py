"""The Celery worker, which `python -P -m worker` runs. One process for each GPU, one job at a time.

The pool has one task per child: no job should meet what another one left in memory. Celery's pools `solo` and `threads`
would ignore time limits.
"""

import warnings
from typing import Any

from celery.apps import worker as celery_worker
from celery.platforms import SecurityWarning
from celery.signals import setup_logging

from app.base.settings import Settings
from app.jobs.doorbell import celery_app
from app.telemetry import logs
from worker.orphan import is_embedded

# Celery warns root of messages that unpickle. Ours are JSON with an id, and the worker accepts nothing else.
warnings.filterwarnings("ignore", category=SecurityWarning)
if is_embedded():
    celery_worker.safe_say = lambda *_, **__: None  # `lirf up` says what Ctrl-C does

settings = Settings()
app = celery_app(settings)
app.conf.update(
    imports=["worker.tasks"],
    worker_pool="worker.pool:ForkServerPool",
    worker_pool_start_method="spawn",  # a child is no copy of this process
    worker_concurrency=1,
    worker_max_tasks_per_child=1,
    # A job that takes too long ends itself. This is for one that cannot.
    task_time_limit=settings.time_limit_seconds + 120,
    worker_prefetch_multiplier=1,
    worker_proc_alive_timeout=120,  # the first child waits until torch is imported
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log(**_: Any) -> None:
    """Replaces Celery's own logging: `LIRF_LOG_LEVEL` counts, `--loglevel` does not."""
    logs.configure(settings)
