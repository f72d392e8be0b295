from fastapi import APIRouter, BackgroundTasks, Response
from sqlalchemy.orm import Session

from app.api.bodies import LimitedRoute
from app.api.dependencies import AnyKey, DoorbellDep, Examiner, PageQuery, ReadingDep, SessionDep, VaultDep
from app.base.paging import Page
from app.measurements import service
from app.measurements.jobs import JOBS
from app.measurements.schemas import Measurement, MeasurementCreate
from app.measurements.service import MeasurementRow
from app.registry import service as registry

router = APIRouter(tags=["measurements"], route_class=LimitedRoute)


def _measurement(session: Session, row: MeasurementRow) -> Measurement:
    own = Measurement.model_fields.keys() - {"model", "deposits", "warnings"}
    return Measurement(
        model=registry.by_id(session, row.model_id).name,
        deposits=row.deposit_ids,
        warnings=row.warnings or [],
        **{name: getattr(row, name) for name in own},
    )


@router.post("/v1/models/{name}/measurements", status_code=202)
def request_measurement(
    name: str,
    body: MeasurementCreate,
    actor: Examiner,
    session: SessionDep,
    doorbell: DoorbellDep,
    tasks: BackgroundTasks,
    response: Response,
) -> Measurement:
    """Measure the model as it is now, with deposits withdrawn for the measurement only. Follow `Location`."""
    row = service.request(session, actor, name, body)
    tasks.add_task(doorbell.ring, JOBS.task, row.id)
    response.headers["Location"] = f"/v1/measurements/{row.id}"
    with session.begin():
        return _measurement(session, row)


@router.get("/v1/models/{name}/measurements")
def list_measurements(name: str, actor: AnyKey, session: ReadingDep, page: PageQuery) -> Page[Measurement]:
    """List a model's measurements, newest first. Each publication of a deposit adds one."""
    rows, cursor = service.list_of_model(session, name, page)
    return Page(items=[_measurement(session, row) for row in rows], next_cursor=cursor)


@router.get("/v1/measurements/{measurement_id}")
def get_measurement(measurement_id: str, actor: AnyKey, session: ReadingDep) -> Measurement:
    """State of a measurement and, once it has finished, the figures of each view and class."""
    return _measurement(session, service.get(session, measurement_id))


@router.post("/v1/measurements/{measurement_id}/cancel")
def cancel_measurement(measurement_id: str, actor: Examiner, session: SessionDep, vault: VaultDep) -> Measurement:
    """Stop a measurement that has not ended."""
    row = service.cancel(session, vault, actor, measurement_id)
    with session.begin():
        return _measurement(session, row)
