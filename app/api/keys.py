from fastapi import APIRouter

from app.access import service
from app.access.schemas import Key, KeyCreate, NewKey
from app.api.bodies import LimitedRoute
from app.api.dependencies import Administrator, PageQuery, SessionDep
from app.base.paging import Page

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=LimitedRoute)


@router.post("", status_code=201)
def create_key(body: KeyCreate, actor: Administrator, session: SessionDep) -> NewKey:
    """Create an API key. Only this answer shows it, or its repetition with the same `Idempotency-Key`."""
    row, key = service.create_key(session, actor, body.name, body.roles, body.end(), body.models)
    return NewKey(**Key.model_validate(row).model_dump(), key=key)


@router.get("")
def list_keys(actor: Administrator, session: SessionDep, page: PageQuery) -> Page[Key]:
    """List the API keys, newest first, without their secrets. A bound key sees the keys within its own models."""
    with session.begin():
        rows, cursor = service.list_keys(session, actor, page)
    return Page(items=[Key.model_validate(row) for row in rows], next_cursor=cursor)


@router.delete("/{key_id}", status_code=204)
def revoke_key(key_id: str, actor: Administrator, session: SessionDep) -> None:
    """Revoke an API key, at once."""
    service.revoke_key(session, actor, key_id)
