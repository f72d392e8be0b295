"""Measurements as their users see them: request, list, read; and the newest figures, for reports of deposits."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.datasets import service as datasets
from app.datasets.service import Purpose
from app.deposits import service as deposits
from app.deposits.losses import deposit_warnings
from app.deposits.membership import membership_warnings
from app.deposits.service import DepositRow, Kind
from app.jobs.machine import WORKER, AlreadyEnded
from app.measurements.figures import Figures
from app.measurements.jobs import JOBS
from app.measurements.schemas import MeasurementCreate
from app.measurements.tables import MeasurementRow as MeasurementRow
from app.measurements.tables import State as State
from app.registry import service as registry
from app.registry.service import ModelRow
from app.vault.service import Vault


class UnknownMeasurement(Problem):
    """No measurement has this id. `GET /v1/models/{name}/measurements` lists a model's measurements."""

    status, slug, title = 404, "unknown-measurement", "There is no such measurement"


class NothingToMeasure(Problem):
    """The model has no evaluation set. Upload held-out images with `purpose=evaluation`."""

    status, slug, title = 409, "nothing-to-measure", "There are no held-out images to measure on"


class ForeignDeposit(Problem):
    """A deposit belongs to another model. Name deposits of this model."""

    status, slug, title = 422, "foreign-deposit", "The deposit belongs to another model"


class MeasurementEnded(Problem):
    """The measurement has ended. Only one that is queued or running can be cancelled."""

    status, slug, title = 409, "measurement-ended", "The measurement has ended"


@dataclass(frozen=True)
class Current:
    """The newest figures of a deposit: of the target, of the deposit withdrawn alone, and with all others."""

    measurement: str
    measured_at: datetime
    revision: int
    is_current: bool
    target: dict[str, Any]
    alone: dict[str, Any] | None
    together: dict[str, Any] | None
    original: dict[str, float | None] | None
    warnings: list[str]


def request(session: Session, actor: Actor, model_name: str, body: MeasurementCreate) -> MeasurementRow:
    """Queue a measurement.

    Raises `UnknownModel`, `WeightsMissing`, `UnknownDeposit`, `ForeignDeposit`, `NotDeposited`, `ModulePurged`,
    `NothingToMeasure`, `UnknownDataset`, `DatasetShredded`.
    """
    with session.begin():
        model = registry.get_ready(session, model_name)
        registry.lock(session, model.id)
        ids = sorted(set(body.deposits)) if body.deposits else None
        for deposit_id in ids or []:
            deposit = deposits.get(session, deposit_id)
            if deposit.model_id != model.id:
                raise ForeignDeposit(f"Deposit '{deposit_id}' is not of model '{model.name}'. Name deposits of it.")
            deposits.module(session, deposit)  # refuses if there is no module
        newest = datasets.newest_evaluation_set(session, model.id)
        evaluation_set_id = body.evaluation_set_id or (newest.id if newest else None)
        if evaluation_set_id is None:
            raise NothingToMeasure(
                f"Model '{model.name}' has no evaluation set. Upload held-out images with "
                f"`POST /v1/models/{model.name}/datasets?purpose=evaluation`."
            )
        datasets.get_usable(session, model.id, evaluation_set_id, Purpose.EVALUATION)
        return _queue(session, actor.name, model, evaluation_set_id, ids)


def request_anew(session: Session, by: str, model: ModelRow) -> None:
    """In the caller's transaction, in which modules were replaced: queue a measurement, if there are held-out images.

    Not if one waits already. The reconciler rings for it.
    """
    evaluation_set = datasets.newest_evaluation_set(session, model.id)
    is_whole = MeasurementRow.model_id == model.id, MeasurementRow.deposit_ids.is_(None)
    waiting = sa.select(MeasurementRow.id).where(*is_whole, MeasurementRow.state == State.QUEUED)
    if evaluation_set and session.scalar(waiting.limit(1)) is None:
        _queue(session, by, model, evaluation_set.id, None)


def _queue(session: Session, by: str, model: ModelRow, evaluation_set_id: str, ids: list[str] | None) -> MeasurementRow:
    row = MeasurementRow(
        id=new_id(),
        model_id=model.id,
        state=State.QUEUED,
        evaluation_set_id=evaluation_set_id,
        deposit_ids=ids,
        created_at=now(),
        created_by=by,
        rung_at=now(),
    )
    session.add(row)
    session.flush()
    details = {"deposits": ids, "evaluation_set": evaluation_set_id}
    audit.record(session, by, "measurement.requested", model=model.name, subject=row.id, details=details)
    return row


def store(
    session: Session, model_id: str, evaluation_set_id: str | None, revision: int | None, figures: Figures
) -> None:
    """Keep what was measured of a revision before its publication, in the transaction that publishes it."""
    assert evaluation_set_id is not None
    session.add(
        MeasurementRow(
            id=new_id(),
            model_id=model_id,
            state=State.FINISHED,
            evaluation_set_id=evaluation_set_id,
            deposit_ids=None,
            revision=revision,
            module_replacements=registry.by_id(session, model_id).module_replacements,
            views=figures.views,
            original=figures.original,
            warnings=figures.warnings,
            created_at=now(),
            created_by=WORKER,
            finished_at=now(),
            rung_at=now(),
        )
    )


def cancel(session: Session, vault: Vault, actor: Actor, measurement_id: str) -> MeasurementRow:
    """End a measurement at once; its worker stops at its next step. Raises `UnknownMeasurement`, `MeasurementEnded`."""
    with session.begin():
        row = get(session, measurement_id)
        try:
            garbage = JOBS.cancel(session, row, actor.name)
        except AlreadyEnded:
            raise MeasurementEnded(
                f"Measurement '{row.id}' is {row.state}. Only one that has not ended can be cancelled."
            ) from None
    vault.remove(garbage)
    return row


def cancel_all(session: Session, actor: Actor, model_id: str) -> list[str]:
    """In the caller's transaction: end every unfinished measurement of a model.

    Returns the vault names to remove after it.
    """
    return JOBS.cancel_all(session, actor.name, MeasurementRow.model_id == model_id)


def get(session: Session, measurement_id: str) -> MeasurementRow:
    """Raises `UnknownMeasurement`."""
    row = session.get(MeasurementRow, measurement_id)
    if row is None:
        raise UnknownMeasurement(
            f"There is no measurement '{measurement_id[:64]}'. `GET /v1/models/NAME/measurements` lists a model's."
        )
    return row


def list_of_model(session: Session, model_name: str, page: PageRequest) -> tuple[Sequence[MeasurementRow], str | None]:
    """Newest first. Raises `UnknownModel`."""
    model = registry.get(session, model_name)
    of_model = sa.select(MeasurementRow).where(MeasurementRow.model_id == model.id)
    return newest_first(session, of_model, MeasurementRow.id, page)


def newest(session: Session, model_id: str) -> MeasurementRow | None:
    """The newest finished measurement of each deposit alone and all together."""
    is_whole = MeasurementRow.model_id == model_id, MeasurementRow.deposit_ids.is_(None)
    finished = sa.select(MeasurementRow).where(*is_whole, MeasurementRow.state == State.FINISHED)
    columns = MeasurementRow.revision, MeasurementRow.module_replacements, MeasurementRow.id
    return session.scalar(finished.order_by(*(column.desc() for column in columns)).limit(1))


def current(session: Session, rows: Iterable[DepositRow]) -> dict[str, Current]:
    """The newest figures of each deposit that was measured, by its id."""
    rows = list(rows)
    models = registry.by_ids(session, (row.model_id for row in rows))
    measured = {model_id: newest(session, model_id) for model_id in models}
    figures = {}
    for row in rows:
        measurement = measured[row.model_id]
        if row.revision is None or measurement is None or (measurement.revision or 0) < row.revision:
            continue
        model = models[row.model_id]
        measured_at = measurement.revision, measurement.module_replacements
        is_current = measured_at == (model.revision, model.module_replacements)
        figures[row.id] = _current(measurement, row, is_current)
    return figures


def warnings(row: DepositRow, names: Collection[str], figures: Current | None) -> list[str]:
    """What a reader of the deposit's averages must know. names: its classes."""
    if row.kind == Kind.CLASSES:
        return deposit_warnings(row.metrics, row.losses, names) + _since(figures, row)
    of_images = membership_warnings(row.metrics) if row.revision is not None else []
    return of_images + deposit_warnings(row.metrics, row.losses, ()) + _since(figures, row)


def _since(figures: Current | None, row: DepositRow) -> list[str]:
    """Of the newest measurement, if it is not the deposit's own."""
    if figures is None or figures.revision == row.made_at_revision:
        return []
    return [f"Now, at revision {figures.revision}: {warning}" for warning in figures.warnings]


def _current(measurement: MeasurementRow, deposit: DepositRow, is_current: bool) -> Current:
    assert measurement.views
    assert measurement.finished_at
    assert measurement.revision is not None
    others = [view for view in measurement.views if deposit.id in view["deposits"]] if not deposit.purged_at else []
    return Current(
        measurement.id,
        measurement.finished_at,
        measurement.revision,
        is_current,
        measurement.views[0],
        next((view for view in others if view["deposits"] == [deposit.id]), None),
        max(others, key=lambda view: len(view["deposits"]), default=None),
        measurement.original,
        measurement.warnings or [],
    )
