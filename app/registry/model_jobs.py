"""What the kinds of job whose rows name a model have in common: deposits, rebases, hardenings and measurements."""

from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from app.jobs.machine import JobMachine, JobT, RowT
from app.registry import service as registry


class ModelJobs(JobMachine[RowT, JobT]):
    """Jobs whose row has the `model_id` of their model."""

    def model_name(self, session: Session, row: Any) -> str:
        return registry.by_id(session, row.model_id).name

    def read_again(self, session: Session, job: JobT) -> JobT:
        """The same claim, with the model as it is now."""
        with session.begin():
            return replace(self.read(session, self._current(session, job.id)), token=job.token, attempt=job.attempt)

    def lock(self, session: Session, job_id: str) -> None:
        """Of the model: nothing is purged, published or replaced between two reads."""
        row: Any = session.get(self.row, job_id)
        if row:
            registry.lock(session, row.model_id)
