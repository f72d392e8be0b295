"""Who sends a request: looks up the actor behind its key or token."""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from cachetools import LRUCache
from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.access import oidc
from app.access import service as access
from app.access.oidc import IdentityProvider, ProviderUnavailable
from app.access.service import Actor, Forbidden, Unauthenticated
from app.api.admission import AT_ONCE
from app.api.rate_limit import RateLimit, counted_address
from app.base.database import Database
from app.registry import service as registry

log = logging.getLogger(__name__)
CHECK_SECONDS, MAX_CHECKS = 0.2, 1024
T = TypeVar("T")


class Callers:
    """Looks up actors. Use it on one event loop only.

    Keys that arrive during a lookup are looked up next, all in one thread and one read, since a thread for each takes
    longer than the read. No key is read before its request arrives, so a revoked key is never accepted.
    """

    def __init__(self, database: Database, limit: RateLimit, provider: IdentityProvider | None) -> None:
        self._database, self._limit, self._provider = database, limit, provider
        self._thread = CapacityLimiter(1)  # its own, so that callers are known even if every other thread is busy
        self._waiting: list[tuple[str, asyncio.Future[Actor | None]]] = []
        self._lookup: asyncio.Task[None] | None = None
        self._checks: LRUCache[str, tuple[float, asyncio.Future[bool]]] = LRUCache(MAX_CHECKS)

    async def actor(self, bearer: str, address: str) -> Actor:
        """The actor behind a key or token.

        Raises `Unauthenticated`, `TooManyRequests`, and the errors of `IdentityProvider.actor`.
        """
        try:
            if self._provider and oidc.is_token(bearer):
                actor = await run_in_threadpool(self._provider.actor, bearer)
            else:
                actor = await self._of_key(bearer)
        except (Unauthenticated, Forbidden, ProviderUnavailable):
            await self._count(f"address {address}")
            raise
        await self._count(f"key {actor.key_id}")
        if actor.is_use_unrecorded:
            await run_in_threadpool(self._record, access.record_use, actor)
        return actor

    async def is_valid(self, actor: Actor) -> bool:
        """Whether the actor's key or token still holds; one read serves all who ask within `CHECK_SECONDS`."""
        if actor.token_has_expired:
            return False
        checked, time = self._checks.get(actor.key_id), asyncio.get_running_loop().time()
        if checked is None or checked[0] < time - CHECK_SECONDS:
            check = asyncio.ensure_future(run_sync(self._is_valid, actor.key_id, limiter=self._thread))
            checked = self._checks[actor.key_id] = (time, check)
        try:
            return await asyncio.shield(checked[1])
        except SQLAlchemyError:  # it is asked again at the next poll
            log.exception("could not look up key %s again", actor.key_id)
            return True

    def _is_valid(self, key_id: str) -> bool:
        with self._database.reading() as session:
            return access.is_valid(session, key_id)

    async def _of_key(self, bearer: str) -> Actor:
        answer: asyncio.Future[Actor | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((bearer, answer))
        if self._lookup is None:
            self._lookup = asyncio.create_task(self._look_up())
        if (actor := await answer) is None:
            raise Unauthenticated(
                "Send a valid API key as `Authorization: Bearer lirf_...`. Ask an administrator for one."
            )
        return actor

    async def _look_up(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                actors = await run_sync(self._read, {bearer for bearer, _ in waiting}, limiter=self._thread)
            except Exception as error:  # every waiting request raises it
                for _, answer in waiting:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for number, (bearer, answer) in enumerate(waiting):
                    if not answer.done():
                        answer.set_result(actors[bearer])
                    if number % AT_ONCE == AT_ONCE - 1:
                        await asyncio.sleep(0)  # many that go on in one round would delay all others
        self._lookup = None

    def _read(self, bearers: Collection[str]) -> dict[str, Actor | None]:
        with self._database.reading() as session:
            lookups = {bearer: access.look_up(session, bearer) for bearer in bearers}
        for lookup in lookups.values():
            if lookup.expired_id:
                self._record(access.record_expiry, lookup.expired_id)
        return {bearer: lookup.actor for bearer, lookup in lookups.items()}

    async def _count(self, caller: str) -> None:
        if self._limit.is_set:
            await run_in_threadpool(self._limit.count, caller)

    def _record(self, write: Callable[[Session, T], None], of: T) -> None:
        try:
            with self._database.session() as session:
                write(session, of)
        except SQLAlchemyError:  # a read-only database must not lock out readers
            log.exception("could not record the use or the end of a key")


async def authenticate(request: Request) -> Actor:
    """The actor of a request, looked up once. Raises the errors of `Callers.actor` and `admit`."""
    if (actor := cached_actor(request)) is None:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        bearer = credentials.strip() if scheme.lower() == "bearer" else ""
        actor = await identify(request, bearer)
    return admit(request, actor)


def admit(request: Request, actor: Actor) -> Actor:
    """Let the request act for the actor, within the actor's trust domain.

    Raises `UnknownModel` if its path names a model elsewhere, whether there is one or not.
    """
    request.state.actor = actor
    access.act_for(actor)
    name = request.path_params.get("name")
    if name is not None and not actor.domain.has(name):
        raise registry.unknown(name)
    return actor


async def identify(request: Request, bearer: str) -> Actor:
    """The actor behind a key or token that came with a request. Raises the errors of `Callers.actor`."""
    callers: Callers = request.state.callers
    return await callers.actor(bearer, counted_address(request.client.host if request.client else "unknown"))


def cached_actor(request: Request) -> Actor | None:
    """The actor of a request if it was looked up already."""
    actor: Actor | None = getattr(request.state, "actor", None)
    return actor
