"""Bounded threads for costly work, which callers take in turns, so that none of them waits for all work of another."""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from anyio import CancelScope

from app.base.errors import Problem

P = ParamSpec("P")
T = TypeVar("T")
MAX_WAITING = 256  # of one caller
RETRY_SECONDS = 1


class TooBusy(Problem):
    """Too many costly requests of the same key are waiting. Send fewer at the same time."""

    status, slug, title = 503, "too-busy", "Too many requests of this key are waiting"


class Turns:
    """A pool of threads. Use it on one event loop only.

    at_most: threads. of_one: the most that one caller gets at the same time; the others always find a thread that the
    caller cannot hold. Callers that wait are served in turns, however much one of them sends.
    """

    def __init__(self, name: str, at_most: int, of_one: int | None = None) -> None:
        self.at_most, self._of_one = at_most, of_one or at_most
        self._free = at_most
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._threads = ThreadPoolExecutor(at_most, thread_name_prefix=name)

    async def run(self, caller: str, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """What the function returns. Raises what it raises, and `TooBusy`.

        Cancelling this call ends its waiting at once. A function that has begun goes on and holds its thread until it
        returns, so it must be short.
        """
        await self._turn(caller)
        return await asyncio.wrap_future(self._begin(caller, function, *arguments, **options))

    async def run_to_end(
        self, caller: str, stop: threading.Event, function: Callable[P, T], *arguments: P.args, **options: P.kwargs
    ) -> T:
        """Like `run`, but cancelling this call sets `stop`, and waits until a function that has begun returns."""
        await self._turn(caller)
        work = asyncio.wrap_future(self._begin(caller, function, *arguments, **options))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            with CancelScope(shield=True):
                await asyncio.wait([work])
            raise

    def _begin(self, caller: str, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> "Future[T]":
        loop = asyncio.get_running_loop()
        try:
            work = self._threads.submit(copy_context().run, lambda: function(*arguments, **options))
        except BaseException:
            self._release(caller)
            raise

        def release(_: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._release, caller)

        work.add_done_callback(release)
        return work

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Hold a turn for work that brings a thread of its own. Raises `TooBusy`."""
        await self._turn(caller)
        try:
            yield
        finally:
            self._release(caller)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    async def _turn(self, caller: str) -> None:
        if self._free and self._held[caller] < self._of_one and not self._waiting.get(caller):
            self._take(caller)
            return
        queue = self._waiting.setdefault(caller, deque())
        if len(queue) >= MAX_WAITING:
            raise TooBusy(
                f"{len(queue)} requests of this key are already waiting. Send the next one when some are answered.",
                retry_after=RETRY_SECONDS,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it got its turn at the same time
                self._release(caller)
            else:
                with suppress(ValueError):  # a release has removed it
                    queue.remove(turn)
                self._forget(caller)
            raise

    def _take(self, caller: str) -> None:
        self._free -= 1
        self._held[caller] += 1

    def _release(self, caller: str) -> None:
        self._free += 1
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        while self._free and (following := self._next()) is not None:
            turn = self._waiting[following].popleft()
            if self._waiting[following]:
                self._waiting[following] = self._waiting.pop(following)  # behind the others
            self._forget(following)
            if not turn.done():
                self._take(following)
                turn.set_result(None)

    def _next(self) -> str | None:
        return next((caller for caller in self._waiting if self._held[caller] < self._of_one), None)

    def _forget(self, caller: str) -> None:
        if not self._waiting.get(caller, True):
            del self._waiting[caller]
