"""How many requests a key, or an address without one, may send. Off unless `LIRF_RATE_LIMIT` says otherwise."""

import math
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from app.errors import Problem
from app.settings import Settings


class TooManyRequests(Problem):
    status, slug, title = 429, "too-many-requests", "Too many requests"


class RateLimit:
    """Counted over a moving window: in Redis where that is the broker, so that replicas count together."""

    def __init__(self, settings: Settings) -> None:
        self._limit: RateLimitItem | None = parse(settings.rate_limit) if settings.rate_limit else None
        is_shared = settings.broker.startswith(("redis://", "rediss://"))
        storage = storage_from_string(settings.broker) if self._limit and is_shared else MemoryStorage()
        self._window = MovingWindowRateLimiter(storage)

    def count(self, who: str) -> None:
        """Raises `TooManyRequests`."""
        if self._limit is None or self._window.hit(self._limit, "lirf", who):
            return
        seconds = max(1, math.ceil(self._window.get_window_stats(self._limit, "lirf", who).reset_time - time.time()))
        raise TooManyRequests(
            f"more than {self._limit} were sent; send the next one in {seconds} seconds.", retry_after=seconds
        )
