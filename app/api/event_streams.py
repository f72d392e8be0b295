"""Event streams: how many there may be, how long they last, and one read for all that follow the same thing."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, Request
from fastapi.sse import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from app.api.authentication import authenticate
from app.base.errors import Problem
from app.base.settings import Settings
from app.jobs.mixin import UNFINISHED

POLL_SECONDS = 0.5
MAX_SECONDS = 600.0  # a client that still listens connects again
RETRY_SECONDS = 5


class Job(Protocol):
    """What the API shows of a job."""

    id: str
    state: Any

    def model_dump_json(self) -> str: ...


T = TypeVar("T")
J = TypeVar("J", bound=Job)


class TooManyStreams(Problem):
    """The key, or all keys together, have too many event streams open. Close some, or ask for the state instead."""

    status, slug, title = 429, "too-many-streams", "Too many event streams are open"


class EventStreams:
    """The open streams of this process. Use it on one event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._in_all, self._of_key = settings.event_streams, settings.event_streams_of_key
        self._open: Counter[str] = Counter()
        self._reads: dict[str, asyncio.Task[object]] = {}

    def open(self, key_id: str) -> None:
        """Count a stream. Raises `TooManyStreams`."""
        if self._open[key_id] >= self._of_key or self._open.total() >= self._in_all:
            raise TooManyStreams(
                f"{self._open[key_id]} event streams of this key are open, {self._open.total()} of all keys; the "
                f"limits are {self._of_key} and {self._in_all}. Close some, or ask for the state now and then.",
                retry_after=RETRY_SECONDS,
            )
        self._open[key_id] += 1

    def close(self, key_id: str) -> None:
        self._open[key_id] -= 1
        if not self._open[key_id]:
            del self._open[key_id]

    async def next(self, subject: str, read: Callable[[], T]) -> T:
        """What `read` returns at the next poll; streams of the same subject share it."""
        reading = self._reads.get(subject)
        if reading is None:
            reading = self._reads[subject] = asyncio.create_task(self._read(subject, read))
        return await asyncio.shield(reading)  # type: ignore[arg-type]

    async def follow(self, job: J, read: Callable[[], J]) -> AsyncIterator[ServerSentEvent]:
        """`progress` with the job whenever it changes, `end` with its final state; nothing more after `MAX_SECONDS`.

        job: as it is now. read: reads it again.
        """
        end = time.monotonic() + MAX_SECONDS
        while job.state in UNFINISHED:
            yield ServerSentEvent(raw_data=job.model_dump_json(), event="progress")
            last = job
            while job == last:
                if time.monotonic() > end:
                    return
                job = await self.next(job.id, read)
        yield ServerSentEvent(raw_data=job.model_dump_json(), event="end")

    async def _read(self, subject: str, read: Callable[[], T]) -> T:
        try:
            await asyncio.sleep(POLL_SECONDS)
        finally:
            del self._reads[subject]
        return await run_in_threadpool(read)


async def _counted(request: Request) -> AsyncIterator[EventStreams]:
    actor = await authenticate(request)
    streams: EventStreams = request.state.event_streams
    streams.open(actor.key_id)
    try:
        yield streams
    finally:
        streams.close(actor.key_id)


EventStreamsDep = Annotated[EventStreams, Depends(_counted)]
