"""Ends what a key or token has begun when it is revoked or expires: streams, uploads, long answers."""

import asyncio
import logging

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.service import Actor, Unauthenticated
from app.api.authentication import Callers
from app.api.problems import answer_to

log = logging.getLogger(__name__)
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
        request = _Request(scope)

        async def noted(message: Message) -> None:
            request.has_answer = True
            await send(message)

        try:
            with request.cancellation:
                await self._app(scope, receive, noted)
        except Exception:
            if not request.is_ended:
                raise
            log.info("a request whose key was revoked ended with an error", exc_info=True)
        finally:
            request.close()
        if request.is_ended and not request.has_answer:
            problem = Unauthenticated("The key or token was revoked or has expired. Get a new one.")
            await answer_to(problem)(scope, receive, send)


class _Request:
    """A request, and the poll of its key.

    Its cancellation waits for a thread that works for the request, as asyncio's own would not: the thread uses the
    request's session, and what it wants to commit is refused.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope, self.cancellation = scope, CancelScope()
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
        self.cancellation.cancel()
