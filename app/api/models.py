import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.approvals import AWAITS_APPROVAL, awaiting
from app.api.bodies import LimitedRoute, streamed_to_file
from app.api.dependencies import (
    Administrator,
    AnyKey,
    DatabaseDep,
    EngineDep,
    Operator,
    PageQuery,
    ReadingDep,
    SessionDep,
    SettingsDep,
    UploadsDep,
    VaultDep,
)
from app.api.etags import etag, version_of
from app.base.paging import Page
from app.hardenings import service as hardenings
from app.hardenings.schemas import Model, ModelHardening
from app.policies import service as policy_changes
from app.registry import policies, service
from app.registry.schemas import ModelCreate, Policy, PolicyChange
from app.removals import service as removals
from app.removals.schemas import Removal, RemovalConfirmation
from app.second_person.schemas import Approval
from app.second_person.service import ApprovalRow
from lirf_core.artifacts import max_file_bytes

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=LimitedRoute)
streaming = APIRouter(prefix="/v1/models", tags=["models"])


def _model(session: Session, row: service.ModelRow) -> Model:
    [model] = _models(session, [row])
    return model


def _models(session: Session, rows: Sequence[service.ModelRow]) -> list[Model]:
    statuses = hardenings.statuses(session, rows)
    return [Model(**Model.described(row), hardening=_hardening(row, statuses[row.id])) for row in rows]


def _hardening(row: service.ModelRow, status: hardenings.Status) -> ModelHardening:
    newest = status.hardening
    return ModelHardening(
        policy=policies.of(row).hardening,
        is_served=status.is_served,
        why_not=status.why_not,
        id=newest.id if newest else None,
        state=newest.state if newest else None,
        losses=newest.losses if newest else None,
    )


def _in_transaction(session: Session, row: service.ModelRow) -> Model:
    with session.begin():
        return _model(session, row)


@router.post("", status_code=201)
def register_model(body: ModelCreate, actor: Operator, session: SessionDep) -> Model:
    """Register a model by its description. Send its weights next."""
    row = service.register(
        session, actor, body.name, body.spec(), body.chosen_split(), body.classes, body.preprocessing.value()
    )
    return _in_transaction(session, row)


@streaming.put(
    "/{name}/weights",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_weights(
    name: str,
    request: Request,
    actor: Operator,
    session: SessionDep,
    vault: VaultDep,
    settings: SettingsDep,
    uploads: UploadsDep,
) -> Model:
    """Upload the weights as a safetensors file (`curl --upload-file weights.safetensors`). The model is then ready."""
    model = await run_in_threadpool(service.describe, session, name)
    async with streamed_to_file(request, settings.spool, max_file_bytes(service.spec_of(model))) as file:
        arguments = session, vault, actor, name, file
        row = await uploads.run_to_end(actor.key_id, threading.Event(), service.put_weights, *arguments)
    return await run_in_threadpool(_in_transaction, session, row)


@router.get("")
def list_models(actor: AnyKey, session: ReadingDep, page: PageQuery) -> Page[Model]:
    """List models, newest first."""
    rows, cursor = service.list_models(session, page)
    return Page(items=_models(session, rows), next_cursor=cursor)


@router.get("/{name}")
def get_model(name: str, actor: AnyKey, session: ReadingDep) -> Model:
    """Show a model."""
    return _model(session, service.get(session, name))


@router.get("/{name}/policy")
def get_policy(name: str, actor: AnyKey, session: ReadingDep, response: Response) -> Policy:
    """Show the policy: older networks, a second person, bounds of a loss. You need its ETag to change the policy."""
    return _policy(service.get(session, name), response)


@router.put("/{name}/policy", responses=AWAITS_APPROVAL | {428: {"description": "If-Match is missing."}})
def put_policy(
    name: str,
    body: PolicyChange,
    actor: Administrator,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    engine: EngineDep,
    response: Response,
    if_match: Annotated[str | None, Header(description="The ETag from `GET`.")] = None,
) -> Policy | Approval:
    """Change the policy. Networks that `destroy` shreds cannot be restored."""
    wanted = body.model_dump(exclude={"reason"}, exclude_none=True)
    try:
        result = policy_changes.change(session, database, vault, actor, name, version_of(if_match), wanted, body.reason)
    finally:
        engine.drop_shredded()
    return awaiting(result, name, response) if isinstance(result, ApprovalRow) else _policy(result, response)


def _policy(model: service.ModelRow, response: Response) -> Policy:
    response.headers["ETag"] = etag(model.policy_version)
    return Policy(**asdict(policies.of(model)))


@router.delete(
    "/{name}",
    response_model=Removal | Approval,
    responses=AWAITS_APPROVAL | {204: {"description": "A registration without weights was removed."}},
)
def remove_model(
    name: str,
    actor: Operator,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    settings: SettingsDep,
    engine: EngineDep,
    query: Annotated[RemovalConfirmation, Query()],
    response: Response,
) -> Removal | Approval | Response:
    """Remove a model for good: destroy its networks, modules and data sets, end its jobs and withdrawals.

    The audit keeps its events, and certificates stay valid. Its name stays taken. Only an administrator may do this; an
    operator may remove a registration that has no weights yet, which also frees the name. May be repeated.
    """
    try:
        removed = removals.remove(session, database, vault, settings, actor, name, query.confirm, query.reason)
    finally:
        engine.drop_shredded()
    if removed is None:
        return Response(status_code=204)
    if isinstance(removed, ApprovalRow):
        return awaiting(removed, name, response)
    return Removal(
        model=name,
        removed_at=removed.model.removed_at,
        removed_by=removed.model.removed_by,
        reason=removed.model.removal_reason,
        shred_effective_at=removed.shred_effective_at,
        still_in=removed.still_in,
        also_in=removed.also_in,
    )
