"""Lets requests begin, a few in each round of the event loop, so that a burst of them delays nobody for long."""

import asyncio
from collections import deque

AT_ONCE = 4  # requests that begin in one round; each takes a millisecond or so of it, and of some later rounds


class Admission:
    """Callers that wait begin in turns, however many requests one of them sends. Use it on one event loop only."""

    def __init__(self) -> None:
        self._begun = 0  # in this round
        self._waiting: dict[bytes, deque[asyncio.Future[None]]] = {}

    async def turn(self, caller: bytes) -> None:
        """Wait until a request of this caller may begin. caller: the credentials, which nobody has checked yet."""
        loop = asyncio.get_running_loop()
        if not self._begun:
            loop.call_soon(self._next_round)
        if self._begun < AT_ONCE and not self._waiting:
            self._begun += 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        await turn

    def _next_round(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < AT_ONCE:
            caller = next(iter(self._waiting))
            queue = self._waiting.pop(caller)
            turn = queue.popleft()
            if queue:
                self._waiting[caller] = queue  # behind the others
            if not turn.done():  # the request was not given up
                turn.set_result(None)
                self._begun += 1
        if self._begun:
            asyncio.get_running_loop().call_soon(self._next_round)
