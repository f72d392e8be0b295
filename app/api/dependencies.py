"""What routes depend on: a session, the vault, an actor with the right role, and so on.

Functions that do not block are `async`, since FastAPI would run them in a thread otherwise.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Security
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session

from app.access import service as access
from app.access.service import Actor, Role, demand
from app.api.authentication import authenticate, cached_actor
from app.api.idempotent_route import ROLES, claim_of
from app.base.database import Database
from app.base.paging import PageRequest
from app.base.settings import Settings
from app.base.turns import Turns
from app.idempotency import service as idempotency
from app.inference.engine import InferenceEngine
from app.inference.views import View
from app.jobs.doorbell import Doorbell
from app.vault.service import Vault
from lirf_core.images.decoding import Decoders

_bearer = HTTPBearer(auto_error=False, description="An API key (`lirf_...`) or a token from the identity provider.")


async def get_settings(request: Request) -> Settings:
    settings: Settings = request.state.settings
    return settings


async def get_database(request: Request) -> Database:
    database: Database = request.state.database
    return database


async def get_vault(request: Request) -> Vault:
    vault: Vault = request.state.vault
    return vault


async def get_engine(request: Request) -> InferenceEngine:
    engine: InferenceEngine = request.state.engine
    return engine


async def get_decoders(request: Request) -> Decoders:
    decoders: Decoders = request.state.decoders
    return decoders


async def get_upload_decoders(request: Request) -> Decoders:
    """Their own, so that uploads do not delay inference."""
    decoders: Decoders = request.state.upload_decoders
    return decoders


async def get_uploads(request: Request) -> Turns:
    """The threads that check and store what was uploaded."""
    uploads: Turns = request.state.uploads
    return uploads


async def get_doorbell(request: Request) -> Doorbell:
    doorbell: Doorbell = request.state.doorbell
    return doorbell


async def get_idle_parts(request: Request) -> list[str]:
    idle_parts: list[str] = request.state.idle_parts()
    return idle_parts


async def get_views(request: Request) -> list[View]:
    """The views of the answer; the route adds them, so that the answer leaves only while they hold."""
    views: list[View] = request.state.views
    return views


PageQuery = Annotated[PageRequest, Query()]
SettingsDep = Annotated[Settings, Depends(get_settings)]
DatabaseDep = Annotated[Database, Depends(get_database)]
IdlePartsDep = Annotated[list[str], Depends(get_idle_parts)]
VaultDep = Annotated[Vault, Depends(get_vault)]
EngineDep = Annotated[InferenceEngine, Depends(get_engine)]
DecodersDep = Annotated[Decoders, Depends(get_decoders)]
ViewsDep = Annotated[list[View], Depends(get_views)]
UploadDecodersDep = Annotated[Decoders, Depends(get_upload_decoders)]
UploadsDep = Annotated[Turns, Depends(get_uploads)]
DoorbellDep = Annotated[Doorbell, Depends(get_doorbell)]


def _session(request: Request, database: DatabaseDep) -> Iterator[Session]:
    with database.session() as session:
        if claim := claim_of(request):
            idempotency.bind(session, claim)
        access.bind(session, partial(cached_actor, request))
        yield session


def _reading(database: DatabaseDep) -> Iterator[Session]:
    with database.reading() as session:
        yield session


# They end before the answer is sent: a client that reads slowly must not keep a snapshot of the database alive.
SessionDep = Annotated[Session, Depends(_session, scope="function")]
ReadingDep = Annotated[Session, Depends(_reading, scope="function")]


async def _get_actor(request: Request, _: Annotated[object, Security(_bearer)]) -> Actor:
    return await authenticate(request)


AnyKey = Annotated[Actor, Depends(_get_actor)]


async def _in_turn(request: Request) -> AsyncIterator[None]:
    actor = await authenticate(request)
    reports: Turns = request.state.reports
    async with reports.turn(actor.key_id):
        yield


# For routes that compute for seconds, such as those that read the whole audit: keys take turns.
InTurn = Depends(_in_turn, scope="function")


def with_role(get_actor: Callable[..., Awaitable[Actor]], *roles: Role) -> Any:
    """The actor that `get_actor` returns, which must have one of the roles."""
    dependency = Depends(get_actor)

    async def actor_with_role(actor: Actor = dependency) -> Actor:
        demand(actor, *roles)
        return actor

    setattr(actor_with_role, ROLES, roles)
    return Depends(actor_with_role)


Operator = Annotated[Actor, with_role(_get_actor, Role.OPERATOR)]
Custodian = Annotated[Actor, with_role(_get_actor, Role.CUSTODIAN)]
Auditor = Annotated[Actor, with_role(_get_actor, Role.AUDITOR)]
Examiner = Annotated[Actor, with_role(_get_actor, Role.OPERATOR, Role.AUDITOR)]
Decider = Annotated[Actor, with_role(_get_actor, Role.OPERATOR, Role.CUSTODIAN)]
Administrator = Annotated[Actor, with_role(_get_actor, Role.ADMINISTRATOR)]
