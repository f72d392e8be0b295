"""The Celery worker: `celery -A worker.celery_app worker`. One process a GPU, one deposit at a time.

Prefork with spawn and one task a child, because CUDA does not survive a fork and what a deposit leaves behind should
not meet the next one. The pools `solo` and `threads` would ignore time limits.
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

# Of root, who could be made to unpickle a message: ours are JSON with an id, and nothing else is taken.
warnings.filterwarnings("ignore", category=SecurityWarning)
if is_embedded():
    celery_worker.safe_say = lambda *_, **__: None  # what Ctrl-C does is for `lirf up` to say

settings = Settings()
app = celery_app(settings)
app.conf.update(
    imports=["worker.tasks"],
    worker_pool="prefork",
    worker_pool_start_method="spawn",
    worker_concurrency=1,
    worker_max_tasks_per_child=1,
    # A deposit that takes too long ends itself; this is for one that cannot.
    task_time_limit=settings.time_limit_seconds + 120,
    worker_prefetch_multiplier=1,
    worker_proc_alive_timeout=120,  # a child imports torch before it says that it is up
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log(**_: Any) -> None:
    """In place of Celery's own: `LIRF_LOG_LEVEL` counts, and not `--loglevel`."""
    logs.configure(settings)
