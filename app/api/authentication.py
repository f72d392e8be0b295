"""Who sends a request."""

import asyncio
import logging
from collections.abc import Collection

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.access import oidc
from app.access.oidc import IdentityProvider, ProviderAway
from app.access.service import Actor, Forbidden, Unauthenticated, actor_of, note_use
from app.api.rate_limit import RateLimit
from app.base.database import Database

log = logging.getLogger(__name__)


class Callers:
    """Looks actors up. To be used on one event loop.

    Requests that come while the database is being asked are looked up next, all of them in one thread and one read:
    to hand each to a thread of its own takes longer than to read its key. No key is read before its request came.
    """

    def __init__(self, database: Database, limit: RateLimit, provider: IdentityProvider | None) -> None:
        self._database, self._limit, self._provider = database, limit, provider
        self._waiting: list[tuple[str, asyncio.Future[Actor | None]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def actor(self, bearer: str, address: str) -> Actor:
        """Raises `Unauthenticated`, `TooManyRequests`, and what `IdentityProvider.actor` does."""
        try:
            if self._provider and oidc.is_token(bearer):
                actor = await run_in_threadpool(self._provider.actor, bearer)
            else:
                actor = await self._of_key(bearer)
        except (Unauthenticated, Forbidden, ProviderAway):
            await self._count(f"address {address}")
            raise
        await self._count(f"key {actor.key_id}")
        if actor.is_use_due:
            await run_in_threadpool(self._note_use, actor)
        return actor

    async def _of_key(self, bearer: str) -> Actor:
        answer: asyncio.Future[Actor | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((bearer, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        if (actor := await answer) is None:
            raise Unauthenticated(
                "send a valid API key as `Authorization: Bearer lirf_...`; an administrator makes one."
            )
        return actor

    async def _ask(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                found = await run_in_threadpool(self._read, {bearer for bearer, _ in waiting})
            except Exception as error:  # each request is told
                for _, answer in waiting:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for bearer, answer in waiting:
                    if not answer.done():
                        answer.set_result(found[bearer])
        self._asking = None

    def _read(self, bearers: Collection[str]) -> dict[str, Actor | None]:
        with self._database.reading() as session:
            return {bearer: actor_of(session, bearer) for bearer in bearers}

    async def _count(self, who: str) -> None:
        if self._limit.is_set:
            await run_in_threadpool(self._limit.count, who)

    def _note_use(self, actor: Actor) -> None:
        try:
            with self._database.session() as session:
                note_use(session, actor)
        except SQLAlchemyError:  # who may read is not refused because the database takes no writes
            log.exception("the use of key %s was not written down", actor.key_id)


async def authenticated(request: Request) -> Actor:
    """The actor of a request, looked up once. Raises what `Callers.actor` does."""
    if (actor := known(request)) is None:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        bearer = credentials.strip() if scheme.lower() == "bearer" else ""
        request.state.actor = actor = await identified(request, bearer)
    return actor


async def identified(request: Request, bearer: str) -> Actor:
    """Whose key or token it is, which came with a request. Raises what `Callers.actor` does."""
    callers: Callers = request.state.callers
    return await callers.actor(bearer, request.client.host if request.client else "unknown")


def known(request: Request) -> Actor | None:
    """The actor, once it was looked up."""
    actor: Actor | None = getattr(request.state, "actor", None)
    return actor
