"""A message is a doorbell: the id of a queued job. A message that is lost, doubled or late only costs time."""

import logging
from contextlib import nullcontext

from celery import Celery
from celery.utils import imports

from app.base.settings import Settings

DEPOSIT = "lirf.deposit"
EXAMINE = "lirf.evidence"
HARDEN = "lirf.hardening"
MEASURE = "lirf.measurement"
REBASE = "lirf.rebase"
log = logging.getLogger(__name__)

# Celery puts the current folder before the installed packages whenever it imports something. A folder that has a
# package `worker` or `app` of its own would run its code in our processes, next to the master key.
imports.cwd_in_path = nullcontext


class Application(Celery):  # type: ignore[misc]
    """Celery's application. A pool's child that unpickles this class imports this module, and so the line above."""


def celery_app(settings: Settings) -> Celery:
    """The Celery application, with the settings that API, reconciler and worker must share."""
    app = Application("lirf", broker=settings.broker)
    app.conf.update(
        task_ignore_result=True,
        task_default_queue="lirf",
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=4,
        # Redis redelivers after `visibility_timeout` even while a task runs (celery#5935). Nothing needs to come
        # back: messages are acknowledged on receipt, and the lease recovers lost jobs.
        broker_transport_options={} if settings.broker.startswith("sqla+") else {"visibility_timeout": 7 * 24 * 3600},
    )
    return app


class Doorbell:
    """Tells the workers that a job is queued. Never fails: the reconciler rings again."""

    def __init__(self, settings: Settings) -> None:
        self._celery = celery_app(settings)
        if not settings.broker.startswith("sqla+"):  # a request must not wait long for a broker that is away
            self._celery.conf.broker_transport_options |= {"socket_timeout": 5, "socket_connect_timeout": 5}
        # The reconciler has rung again by then, so a busy worker does not find a heap of old messages.
        self._expires_seconds = 2 * settings.doorbell_seconds

    def ring(self, task: str, job_id: str) -> None:
        """task: `DEPOSIT`, `REBASE`, `HARDEN`, `EXAMINE` or `MEASURE`, as the job's kind names it."""
        try:
            self._celery.send_task(task, args=[job_id], retry=False, expires=self._expires_seconds)
        except Exception as error:  # whatever a broker raises: the job is in the database
            log.warning("the broker did not take the message for %s %s: %s", task, job_id, type(error).__name__)
