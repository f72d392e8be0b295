"""How much memory the bodies of all requests may take together: each is bounded, but there may be hundreds."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.base.errors import Problem

WAIT_SECONDS = 5.0  # for other bodies to be answered, before this one is refused
RETRY_SECONDS = 5
SMALL_BYTES = 1 << 20  # each key always gets these: others may hold all the rest with bodies that arrive slowly


class BodiesTooLarge(Problem):
    """The bodies of all requests, or of this key's, take as much memory as they may (`LIRF_ALL_BODIES_BYTES`). Send
    the request again after `Retry-After`, and fewer large ones at the same time."""

    status, slug, title = 503, "bodies-too-large", "The bodies of all requests are too large"


class BodyMemory:
    """Counts the bytes of bodies that are in memory. One key gets at most half of them. For one event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()
        self._freed = asyncio.Event()

    @contextmanager
    def of(self, caller: str) -> Iterator["Body"]:
        """A body, which is no longer in memory when this ends."""
        body = Body(self, caller)
        try:
            yield body
        finally:
            self._held[caller] -= body.size
            if not self._held[caller]:
                del self._held[caller]
            self._freed.set()
            self._freed = asyncio.Event()

    def _has_room(self, caller: str, count: int) -> bool:
        """Whether so many bytes more fit. The first body of all fits, however large."""
        of_caller, of_all = self._held[caller] + count, self._held.total() + count
        is_first = of_all == count
        return is_first or of_caller <= SMALL_BYTES or (of_caller <= self._limit // 2 and of_all <= self._limit)

    async def _take(self, caller: str, count: int) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not self._has_room(caller, count):
                    await self._freed.wait()
        except TimeoutError:
            raise BodiesTooLarge(
                f"The bodies of requests that are not answered yet take {self._held.total():,} bytes, of which "
                f"{self._held[caller]:,} belong to this key; the limits are {self._limit:,} and {self._limit // 2:,}. "
                "Send the request again later.",
                retry_after=RETRY_SECONDS,
            ) from None
        self._held[caller] += count


class Body:
    """The body of a request, as far as it is counted."""

    def __init__(self, memory: BodyMemory, caller: str) -> None:
        self._memory, self._caller = memory, caller
        self.size = self._arrived = 0

    async def reserve(self, size: int) -> None:
        """Count all of a body before it arrives, so that no two of them wait for each other's rest.

        Waits until there is room. Raises `BodiesTooLarge`.
        """
        if size > self.size:
            await self._memory._take(self._caller, size - self.size)
            self.size = size

    async def arrive(self, count: int) -> None:
        """Count so many bytes, if they were not reserved. Raises `BodiesTooLarge`."""
        self._arrived += count
        await self.reserve(self._arrived)
