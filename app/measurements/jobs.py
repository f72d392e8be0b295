"""Measurements on request, as jobs: what a worker is given, and what becomes of its figures.

A measurement changes nothing of a model and stores no object. Deposits that wait for a worker go first.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.base.database import now
from app.datasets import service as datasets
from app.deposits import jobs as deposit_jobs
from app.deposits import service as deposits
from app.deposits.service import StoredModule
from app.jobs.doorbell import MEASURE
from app.jobs.machine import WORKER, Claim
from app.measurements.figures import Figures
from app.measurements.tables import MeasurementRow, State
from app.registry import service as registry
from app.registry.model_jobs import ModelJobs
from app.registry.service import StoredNetwork
from app.vault.service import StoredObject
from lirf_core.images.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Job(Claim):
    """A claimed measurement: everything the work needs, read in the claiming transaction.

    `modules`, by deposit, are those that are measured; `all_modules`, those of all deposits, have the rows that are put
    back. `sets`: the deposits of each view. `original` is revision 0, None if it was destroyed.
    """

    model_name: str
    class_names: list[str]
    preserved: list[int]
    preprocessing: Preprocessing
    target: StoredNetwork
    original: StoredNetwork | None
    modules: dict[str, StoredModule]
    all_modules: list[StoredObject]
    sets: list[list[str]]
    evaluation_set: StoredObject


class MeasurementJobs(ModelJobs[MeasurementRow, Job]):
    """A cancelled measurement ends at once: it stores nothing that would have to be cleared away."""

    row, states, name, task, ends_at_once = MeasurementRow, State, "measurement", MEASURE, True

    def read(self, session: Session, row: MeasurementRow) -> Job:
        """Raises `NotDeposited`, `ModulePurged`, `Shredded` if what it needs is gone."""
        model = registry.by_id(session, row.model_id)
        ids = row.deposit_ids or deposits.outstanding(session, model.id)
        modules = dict(zip(ids, deposits.modules(session, ids), strict=True))
        alone = [] if row.deposit_ids else [[deposit_id] for deposit_id in ids]
        together = [list(ids)] if row.deposit_ids or len(ids) > 1 else []
        held = registry.deposited(session, model.id)
        target = registry.stored_network(session, model)
        row.revision, row.module_replacements = target.revision, model.module_replacements
        return Job(
            id=row.id,
            token=row.token,
            attempt=row.attempts,
            model_name=model.name,
            class_names=model.class_names,
            preserved=[index for index in range(len(model.class_names)) if index not in held],
            preprocessing=registry.preprocessing_of(model),
            target=target,
            original=registry.revision_if_present(session, model, 0),
            modules=modules,
            all_modules=[module.stored for module in deposit_jobs.stored_modules(session, model.id)],
            sets=[[], *alone, *together],
            evaluation_set=datasets.stored_images(session, row.evaluation_set_id),
        )

    def details(self, row: MeasurementRow) -> dict[str, Any]:
        return {"deposits": row.deposit_ids}

    def must_wait(self, session: Session) -> bool:
        return deposit_jobs.is_any_ready(session)

    def finish(self, session: Session, job: Job, figures: Figures) -> None:
        """Keep the figures. Raises `Cancelled`, `LeaseLost`."""
        with session.begin():
            row = self.change(
                session,
                job,
                state=State.FINISHED,
                finished_at=now(),
                lease_until=None,
                views=figures.views,
                original=figures.original,
                warnings=figures.warnings,
            )
            self.record(session, WORKER, row, "finished", revision=job.target.revision, views=_without_classes(figures))


def _without_classes(figures: Figures) -> list[dict[str, Any]]:
    return [{name: value for name, value in view.items() if name != "by_class"} for view in figures.views]


JOBS = MeasurementJobs()
