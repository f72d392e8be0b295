"""How many requests a key, or an address without one, may send. Off unless `LIRF_RATE_LIMIT` says otherwise."""

import logging
import math
import time

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import MovingWindowRateLimiter

from app.base.errors import Problem
from app.base.settings import Settings

log = logging.getLogger(__name__)


class TooManyRequests(Problem):
    status, slug, title = 429, "too-many-requests", "Too many requests"


def _shared(url: str) -> Storage:
    return RedisStorage(url, wrap_exceptions=True, socket_timeout=1, socket_connect_timeout=1)


class RateLimit:
    """Counted over a moving window: in Redis where that is the broker, so that replicas count together."""

    def __init__(self, settings: Settings) -> None:
        self._limit: RateLimitItem | None = parse(settings.rate_limit) if settings.rate_limit else None
        is_shared = settings.broker.startswith(("redis://", "rediss://"))
        self._window = MovingWindowRateLimiter(
            _shared(settings.broker) if self._limit and is_shared else MemoryStorage()
        )

    @property
    def is_set(self) -> bool:
        return self._limit is not None

    def count(self, who: str) -> None:
        """Raises `TooManyRequests`. Where Redis is away, nothing is counted: a limit is no reason to answer nobody."""
        if self._limit is None:
            return
        try:
            if self._window.hit(self._limit, "lirf", who):
                return
            ends = self._window.get_window_stats(self._limit, "lirf", who).reset_time
        except StorageError:
            log.warning("requests are not counted while Redis does not answer")
            return
        seconds = max(1, math.ceil(ends - time.time()))
        raise TooManyRequests(
            f"more than {self._limit} were sent; send the next one in {seconds} seconds.", retry_after=seconds
        )
