from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.approvals import AWAITS_APPROVAL, awaiting
from app.api.bodies import LimitedRoute
from app.api.dependencies import AnyKey, DatabaseDep, DoorbellDep, Operator, PageQuery, ReadingDep, SessionDep, VaultDep
from app.api.event_streams import EventStreamsDep
from app.base.database import Database
from app.base.paging import Page
from app.deposits import groups, requests, scrubbed, service
from app.deposits.jobs import JOBS
from app.deposits.schemas import Deposit, DepositCreate, DepositFigures, DepositGroup, Progress, ScrubbedModule
from app.deposits.service import DepositRow
from app.measurements import service as measurements
from app.registry import service as registry
from app.second_person.schemas import Approval
from app.second_person.service import ApprovalRow

router = APIRouter(tags=["deposits"], route_class=LimitedRoute)


def _deposits(session: Session, rows: Sequence[DepositRow]) -> list[Deposit]:
    names, models = service.names_of(session, rows), registry.by_ids(session, (row.model_id for row in rows))
    current = measurements.current(session, rows)
    known = scrubbed.known_others(session, rows)
    of_jobs = groups.of_job(session, rows)
    computed = {"model", "classes", "groups", "progress", "scrubbed_module", "figures", "warnings", "module_revision"}
    return [
        Deposit(
            model=models[row.model_id].name,
            classes=names[row.id],
            groups=[
                DepositGroup(deposit=deposit_id, classes=[models[row.model_id].class_names[i] for i in indices])
                for deposit_id, indices in of_jobs.get(row.id, {}).items()
            ],
            progress=Progress(**row.progress),
            module_revision=row.made_at_revision,
            scrubbed_module=_scrubbed_module(row, known.get(row.id, [])),
            figures=_figures(current.get(row.id)),
            warnings=measurements.warnings(row, names[row.id], current.get(row.id)),
            **{name: getattr(row, name) for name in Deposit.model_fields.keys() - computed},
        )
        for row in rows
    ]


def _scrubbed_module(row: DepositRow, known: Sequence[DepositRow]) -> ScrubbedModule | None:
    """known: the later deposits whose classes the module in use still knows."""
    if row.scrubbed_object_id is None:
        return None
    return ScrubbedModule(forgets=len(known), loss=row.scrubbed_loss)


def _figures(current: measurements.Current | None) -> DepositFigures | None:
    return DepositFigures.model_validate(asdict(current)) if current else None


def _deposit(session: Session, row: DepositRow) -> Deposit:
    [deposit] = _deposits(session, [row])
    return deposit


@router.post("/v1/models/{name}/deposits", status_code=202, responses=AWAITS_APPROVAL)
def request_deposit(
    name: str,
    body: DepositCreate,
    actor: Operator,
    session: SessionDep,
    doorbell: DoorbellDep,
    tasks: BackgroundTasks,
    response: Response,
) -> Deposit | Approval:
    """Forget classes: a worker trains the target network and stores the deposit module. Follow `Location`.

    A result that costs more accuracy than the model's policy allows is not published: the deposit ends as `failed`.
    """
    row = requests.request(session, actor, name, body)
    if isinstance(row, ApprovalRow):
        return awaiting(row, name, response)
    tasks.add_task(doorbell.ring, JOBS.task, row.id)
    response.headers["Location"] = f"/v1/deposits/{row.id}"
    with session.begin():
        return _deposit(session, row)


@router.get("/v1/models/{name}/deposits")
def list_deposits(name: str, actor: AnyKey, session: ReadingDep, page: PageQuery) -> Page[Deposit]:
    """Deposits of a model, newest first."""
    rows, cursor = service.list_of_model(session, name, page)
    return Page(items=_deposits(session, rows), next_cursor=cursor)


@router.get("/v1/deposits/{deposit_id}")
def get_deposit(deposit_id: str, actor: AnyKey, session: ReadingDep) -> Deposit:
    """State, progress and result of a deposit."""
    return _deposit(session, service.get(session, deposit_id))


@router.post("/v1/deposits/{deposit_id}/cancel", status_code=202)
def cancel_deposit(deposit_id: str, actor: Operator, session: SessionDep, vault: VaultDep) -> Deposit:
    """Stop a deposit that has not ended. The model stays as it was."""
    row = service.cancel(session, vault, actor, deposit_id)
    with session.begin():
        return _deposit(session, row)


async def _first(deposit_id: str, database: DatabaseDep) -> Deposit:
    """Read before the stream begins, so that an unknown deposit is a 404."""
    return await run_in_threadpool(_read, database, deposit_id)


@router.get("/v1/deposits/{deposit_id}/events", response_class=EventSourceResponse)
async def follow_deposit(
    actor: AnyKey,
    streams: EventStreamsDep,  # before anything that costs more than refusing the stream
    database: DatabaseDep,
    deposit: Annotated[Deposit, Depends(_first)],
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `progress` with the deposit whenever it changes, `end` with its final state.

    A stream ends after ten minutes. Connect again to follow the deposit further.
    """
    async for event in streams.follow(deposit, partial(_read, database, deposit.id)):
        yield event


def _read(database: Database, deposit_id: str) -> Deposit:
    with database.reading() as session:
        return _deposit(session, service.get(session, deposit_id))
