"""A message is a doorbell: it carries the id of queued work; losing, doubling or reordering it changes only latency."""

import logging

from celery import Celery

from app.base.settings import Settings

DEPOSIT = "lirf.deposit"
EXAMINE = "lirf.evidence"
log = logging.getLogger(__name__)


def celery_app(settings: Settings) -> Celery:
    """The Celery application, as far as API, reconciler and worker have to agree on it."""
    app = Celery("lirf", broker=settings.broker)
    app.conf.update(
        task_ignore_result=True,
        task_default_queue="lirf",
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=4,
        # Redis redelivers after `visibility_timeout` even while a task runs (celery#5935). Messages are acknowledged
        # on receipt and recovery is the lease's work, so nothing has to come back.
        broker_transport_options={} if settings.broker.startswith("sqla+") else {"visibility_timeout": 7 * 24 * 3600},
    )
    return app


class Doorbell:
    """Tells the workers that a deposit or an examination is queued. Never fails: the reconciler rings again."""

    def __init__(self, settings: Settings) -> None:
        self._celery = celery_app(settings)
        if not settings.broker.startswith("sqla+"):  # a worker waits for messages, a bell for nobody
            self._celery.conf.broker_transport_options |= {"socket_timeout": 5, "socket_connect_timeout": 5}
        # By then it has been rung again: a busy worker does not find a heap of old messages.
        self._expires_seconds = 2 * settings.doorbell_seconds

    def ring(self, queued_id: str, task: str = DEPOSIT) -> None:
        """task: `DEPOSIT` with a deposit's id, or `EXAMINE` with the evidence's."""
        try:
            self._celery.send_task(task, args=[queued_id], retry=False, expires=self._expires_seconds)
        except Exception as error:  # whatever a broker throws: the work is in the database
            log.warning("the broker did not take the message for %s %s: %s", task, queued_id, type(error).__name__)
