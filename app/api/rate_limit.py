"""Limits the requests of each key, and of each address without a valid key. Off unless `LIRF_RATE_LIMIT` is set."""

import ipaddress
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
    """The key, or the address, has used up `LIRF_RATE_LIMIT`. Wait for the seconds in `Retry-After`."""

    status, slug, title = 429, "too-many-requests", "Too many requests"


def _shared(url: str) -> Storage:
    return RedisStorage(url, wrap_exceptions=True, socket_timeout=1, socket_connect_timeout=1)


def counted_address(address: str) -> str:
    """What a client cannot change at will: its IPv4 address, or the /64 network of its IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.ip_network((parsed, 64), strict=False))
        parsed = parsed.ipv4_mapped
    return str(parsed)


class RateLimit:
    """Counts requests over a moving window. The count is in Redis, shared by all replicas, if Redis is the broker."""

    def __init__(self, settings: Settings) -> None:
        self._limit: RateLimitItem | None = parse(settings.rate_limit) if settings.rate_limit else None
        is_shared = settings.broker.startswith(("redis://", "rediss://"))
        self._window = MovingWindowRateLimiter(
            _shared(settings.broker) if self._limit and is_shared else MemoryStorage()
        )

    @property
    def is_set(self) -> bool:
        return self._limit is not None

    def count(self, caller: str) -> None:
        """Count a request of this caller. Raises `TooManyRequests`.

        Counts nothing while Redis does not answer, so that the service stays available.
        """
        if self._limit is None:
            return
        try:
            if self._window.hit(self._limit, "lirf", caller):
                return
            ends = self._window.get_window_stats(self._limit, "lirf", caller).reset_time
        except StorageError:
            log.warning("Redis does not answer, so requests are not counted")
            return
        seconds = max(1, math.ceil(ends - time.time()))
        raise TooManyRequests(
            f"More than {self._limit} were sent. Send the next request in {seconds} seconds.", retry_after=seconds
        )
