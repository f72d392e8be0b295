"""The deadline of a request: it counts everything between the request's arrival and its answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.base.errors import Problem


class DeadlinePassed(Problem):
    """No answer came within `timeout` or `LIRF_INFERENCE_SECONDS`. Allow more time, or send fewer images."""

    status, slug, title = 504, "deadline-passed", "The deadline passed"


class Deadline:
    """seconds: what the request may take from its arrival."""

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit, self._begun, self.seconds = limit, time.monotonic(), seconds

    def shorten(self, seconds: float) -> None:
        """Allow this many seconds since the arrival, if that is less than now."""
        if seconds < self.seconds:
            self.seconds = seconds
            passed = time.monotonic() - self._begun
            self._limit.reschedule(asyncio.get_running_loop().time() + max(0.0, seconds - passed))


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[Deadline]:
    """Cancel what runs inside after this many seconds. Raises `DeadlinePassed` then."""
    limit = asyncio.timeout(seconds)
    allowed = Deadline(limit, seconds)
    try:
        async with limit:
            yield allowed
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlinePassed(
            f"The request was not answered within {allowed.seconds:g} seconds. "
            "Send it again with a longer `timeout` or fewer images."
        ) from None
