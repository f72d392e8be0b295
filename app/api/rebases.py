from collections.abc import AsyncIterator
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
from app.deposits.schemas import DepositConfigIn, Progress
from app.rebases import service
from app.rebases.jobs import JOBS
from app.rebases.schemas import Rebase, RebaseCreate
from app.rebases.service import RebaseRow
from app.registry import service as registry
from app.second_person.schemas import Approval
from app.second_person.service import ApprovalRow

router = APIRouter(tags=["rebases"], route_class=LimitedRoute)


def _rebase(session: Session, row: RebaseRow) -> Rebase:
    computed = {"model", "keep_dataset", "progress", "deposits", "config"}
    return Rebase(
        model=registry.by_id(session, row.model_id).name,
        keep_dataset=row.keeps_dataset,
        progress=Progress(**row.progress),
        deposits=row.deposits or [],
        config=DepositConfigIn(**row.config),
        **{name: getattr(row, name) for name in Rebase.model_fields.keys() - computed},
    )


@router.post("/v1/models/{name}/rebases", status_code=202, responses=AWAITS_APPROVAL)
def request_rebase(
    name: str,
    body: RebaseCreate,
    actor: Operator,
    session: SessionDep,
    doorbell: DoorbellDep,
    tasks: BackgroundTasks,
    response: Response,
) -> Rebase | Approval:
    """Make the target and the modules of all outstanding deposits anew, from the original network. Follow `Location`.

    What many deposits have cost is made good, and each deposit keeps its id. A result that costs more accuracy than the
    model's policy allows, or that forgets less, is not published: the rebase ends as `failed`.
    """
    row = service.request(session, actor, name, body)
    if isinstance(row, ApprovalRow):
        return awaiting(row, name, response)
    tasks.add_task(doorbell.ring, JOBS.task, row.id)
    response.headers["Location"] = f"/v1/rebases/{row.id}"
    with session.begin():
        return _rebase(session, row)


@router.get("/v1/models/{name}/rebases")
def list_rebases(name: str, actor: AnyKey, session: ReadingDep, page: PageQuery) -> Page[Rebase]:
    """List a model's rebases, newest first."""
    rows, cursor = service.list_of_model(session, name, page)
    return Page(items=[_rebase(session, row) for row in rows], next_cursor=cursor)


@router.get("/v1/rebases/{rebase_id}")
def get_rebase(rebase_id: str, actor: AnyKey, session: ReadingDep) -> Rebase:
    """State, progress and result of a rebase."""
    return _rebase(session, service.get(session, rebase_id))


@router.post("/v1/rebases/{rebase_id}/cancel")
def cancel_rebase(rebase_id: str, actor: Operator, session: SessionDep, vault: VaultDep) -> Rebase:
    """Stop a rebase that has not ended. The model stays as it was."""
    row = service.cancel(session, vault, actor, rebase_id)
    with session.begin():
        return _rebase(session, row)


async def _first(rebase_id: str, database: DatabaseDep) -> Rebase:
    """Read before the stream begins, so that an unknown rebase is a 404."""
    return await run_in_threadpool(_read, database, rebase_id)


@router.get("/v1/rebases/{rebase_id}/events", response_class=EventSourceResponse)
async def follow_rebase(
    actor: AnyKey,
    streams: EventStreamsDep,  # before anything that costs more than refusing the stream
    database: DatabaseDep,
    rebase: Annotated[Rebase, Depends(_first)],
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `progress` with the rebase whenever it changes, `end` with its final state.

    A stream ends after ten minutes. Connect again to follow the rebase further.
    """
    async for event in streams.follow(rebase, partial(_read, database, rebase.id)):
        yield event


def _read(database: Database, rebase_id: str) -> Rebase:
    with database.reading() as session:
        return _rebase(session, service.get(session, rebase_id))
