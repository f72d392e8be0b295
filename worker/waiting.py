"""The jobs that wait for a worker, and the messages about them. The worker's parent imports this, so no torch here."""

import logging
from functools import cache
from typing import Any, NamedTuple

from celery.worker.request import Request
from celery.worker.state import task_ready
from sqlalchemy.exc import SQLAlchemyError

from app.base.database import Database
from app.base.settings import Settings
from app.deposits.jobs import JOBS as DEPOSITS
from app.evidence.jobs import JOBS as EXAMINATIONS
from app.hardenings.jobs import JOBS as HARDENINGS
from app.jobs.machine import JobMachine
from app.measurements.jobs import JOBS as MEASUREMENTS
from app.rebases.jobs import JOBS as REBASES

log = logging.getLogger(__name__)


class Waiting(NamedTuple):
    """A queued job that may start now. task: the message that announces its kind."""

    task: str
    job_id: str


def oldest(database: Database) -> Waiting | None:
    """The oldest job that may start now: a deposit or, if none may, one of the next of these kinds."""
    with database.reading() as session:
        kinds: tuple[JobMachine[Any, Any], ...] = DEPOSITS, REBASES, HARDENINGS, MEASUREMENTS, EXAMINATIONS
        for jobs in kinds:
            if job_id := jobs.oldest_ready(session):
                return Waiting(jobs.task, job_id)
    return None


class DoorbellRequest(Request):  # type: ignore[misc]
    """A received message. If no job waits, the worker's parent drops it: a pool's child would start for nothing,
    since a child ends with its task.
    """

    def revoked(self) -> bool:
        """Whether the parent drops the message. Celery asks when it arrives, and before it goes to a child."""
        if super().revoked():
            return True
        try:
            if oldest(_database()):
                return False
        except SQLAlchemyError:
            log.exception("the database did not say whether a job waits, so a child looks")
            return False
        self._already_revoked = True
        self.acknowledge()
        task_ready(self)
        log.info("no job waits: a message costs no process")
        return True


@cache
def _database() -> Database:
    return Database(Settings().database)
