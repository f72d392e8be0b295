"""Ends what a key or token has begun when it is revoked or expires: streams, uploads, long answers."""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.service import Actor, Unauthenticated
from app.api.authentication import Callers
from app.api.problems import answer_to

POLL_SECONDS = 0.5


class EndRevoked:
    """Middleware. Looks up the key of each long request again, at every poll.

    A request without an answer gets 401; one whose answer is on its way loses its connection, and what has not left
    this machine is dropped.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, asyncio.current_task())

        async def noted(message: Message) -> None:
            request.has_answer = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except (asyncio.CancelledError, Exception):  # a thread that still uses a session makes an error of the end
            if not request.is_ended:
                raise
            request.task.uncancel()
            if not request.has_answer:
                problem = Unauthenticated("The key or token was revoked or has expired. Get a new one.")
                await answer_to(problem)(scope, receive, send)
        finally:
            request.close()


class _Request:
    """A request, and the poll of its key."""

    def __init__(self, scope: Scope, task: Any) -> None:
        self._scope, self.task = scope, task
        self.has_answer = self.is_ended = False
        self._poll: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(POLL_SECONDS, self._begin)  # most requests end before

    def close(self) -> None:
        self._timer.cancel()
        if self._poll:
            self._poll.cancel()

    def _begin(self) -> None:
        self._poll = asyncio.create_task(self._until_revoked())

    async def _until_revoked(self) -> None:
        state = self._scope["state"]
        callers: Callers = state["callers"]
        while True:
            actor: Actor | None = state.get("actor")
            if actor is not None and not await callers.is_valid(actor):
                break
            await asyncio.sleep(POLL_SECONDS)
        self.is_ended = True
        if self.has_answer and (connection := state.get("connection")):
            connection.abort()
        self.task.cancel()
