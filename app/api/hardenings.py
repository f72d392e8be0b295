from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.approvals import AWAITS_APPROVAL, awaiting
from app.api.bodies import LimitedRoute
from app.api.dependencies import (
    Administrator,
    AnyKey,
    DatabaseDep,
    DoorbellDep,
    EngineDep,
    Operator,
    PageQuery,
    ReadingDep,
    SessionDep,
    SettingsDep,
    VaultDep,
)
from app.api.event_streams import EventStreamsDep
from app.base.database import Database
from app.base.paging import Page
from app.deposits.schemas import Progress
from app.hardenings import base, service
from app.hardenings.jobs import JOBS
from app.hardenings.schemas import Base, BaseCreate, Hardening, HardeningCreate
from app.hardenings.service import HardeningRow
from app.registry import service as registry
from app.second_person.schemas import Approval
from app.second_person.service import ApprovalRow

router = APIRouter(tags=["hardenings"], route_class=LimitedRoute)


def _hardening(session: Session, row: HardeningRow) -> Hardening:
    model = registry.by_id(session, row.model_id)
    computed = {"model", "deposit", "is_served", "keep_dataset", "progress"}
    return Hardening(
        model=model.name,
        deposit=row.deposit_id,
        is_served=service.is_served(model, row),
        keep_dataset=row.keeps_dataset,
        progress=Progress(**row.progress),
        **{name: getattr(row, name) for name in Hardening.model_fields.keys() - computed},
    )


@router.post("/v1/models/{name}/hardenings", status_code=202)
def request_hardening(
    name: str,
    body: HardeningCreate,
    actor: Operator,
    session: SessionDep,
    doorbell: DoorbellDep,
    tasks: BackgroundTasks,
    response: Response,
) -> Hardening:
    """Harden the target in service once more, or for the first time. Follow `Location`.

    After each deposit this happens by itself, unless the model's policy says `hardening: none`. A result that costs the
    preserved classes more than the policy allows is not served: the hardening ends as `failed`.
    """
    row = service.request(session, actor, name, body)
    tasks.add_task(doorbell.ring, JOBS.task, row.id)
    response.headers["Location"] = f"/v1/hardenings/{row.id}"
    with session.begin():
        return _hardening(session, row)


@router.get("/v1/models/{name}/hardenings")
def list_hardenings(name: str, actor: AnyKey, session: ReadingDep, page: PageQuery) -> Page[Hardening]:
    """List a model's hardenings, newest first."""
    rows, cursor = service.list_of_model(session, name, page)
    return Page(items=[_hardening(session, row) for row in rows], next_cursor=cursor)


@router.get("/v1/hardenings/{hardening_id}")
def get_hardening(hardening_id: str, actor: AnyKey, session: ReadingDep) -> Hardening:
    """State, progress and figures of a hardening, and whether its network is served."""
    return _hardening(session, service.get(session, hardening_id))


@router.post("/v1/hardenings/{hardening_id}/cancel")
def cancel_hardening(hardening_id: str, actor: Operator, session: SessionDep, vault: VaultDep) -> Hardening:
    """Stop a hardening that has not ended. The working target stays in service."""
    row = service.cancel(session, vault, actor, hardening_id)
    with session.begin():
        return _hardening(session, row)


@router.post("/v1/models/{name}/base", responses=AWAITS_APPROVAL)
def make_base(
    name: str,
    body: BaseCreate,
    actor: Administrator,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    settings: SettingsDep,
    engine: EngineDep,
    response: Response,
) -> Base | Approval:
    """Make the hardened network the model's base: it becomes a revision, and everything older is destroyed for good.

    After a purge this destroys what could still relearn the classes. It needs a model without outstanding deposits.
    """
    try:
        based = base.make_base(session, database, vault, settings, actor, name, body.confirm, body.reason)
    finally:
        engine.drop_shredded()
    if isinstance(based, ApprovalRow):
        return awaiting(based, name, response)
    return Base(
        model=name,
        revision=based.model.revision,
        destroyed_revisions=based.destroyed_revisions,
        shred_effective_at=based.shred_effective_at,
        still_in=based.still_in,
        also_in=based.also_in,
    )


async def _first(hardening_id: str, database: DatabaseDep) -> Hardening:
    """Read before the stream begins, so that an unknown hardening is a 404."""
    return await run_in_threadpool(_read, database, hardening_id)


@router.get("/v1/hardenings/{hardening_id}/events", response_class=EventSourceResponse)
async def follow_hardening(
    actor: AnyKey,
    streams: EventStreamsDep,  # before anything that costs more than refusing the stream
    database: DatabaseDep,
    hardening: Annotated[Hardening, Depends(_first)],
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `progress` with the hardening whenever it changes, `end` with its final state.

    A stream ends after ten minutes. Connect again to follow the hardening further.
    """
    async for event in streams.follow(hardening, partial(_read, database, hardening.id)):
        yield event


def _read(database: Database, hardening_id: str) -> Hardening:
    with database.reading() as session:
        return _hardening(session, service.get(session, hardening_id))
