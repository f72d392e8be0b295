"""Answers leave only while their view holds, and a long one is cut off when its view ends on the way."""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import answer_to
from app.base.errors import Problem
from app.inference.engine import InferenceEngine
from app.inference.views import View

POLL_SECONDS = 0.05  # between two looks at what has not left yet
SHORT_BYTES = 16 << 10  # of an answer that leaves at once, if its client reads
CONFIRM_SECONDS = 0.2  # of `seconds_left` at which a view on its way is confirmed again


class ViewEnded(Problem):
    """A withdrawal ended, or the model changed, just before the answer left. Send the request again."""

    status, slug, title = 503, "view-ended", "What the model answers with has just changed"


class Departures:
    """Middleware. A route adds the views of its answer to `request.state.views`.

    An answer that has not begun to leave is replaced by a problem. One that has loses its connection, and what has not
    left this machine is dropped, so that the client never has the whole answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        views: list[View] = []
        scope["state"]["views"] = views
        engine: InferenceEngine = scope["state"]["engine"]
        is_refused = False
        guard: asyncio.Task[None] | None = None

        async def guarded(message: Message) -> None:
            nonlocal is_refused, guard
            if views and message["type"] == "http.response.start":
                if not await engine.confirm(views):
                    is_refused = True
                    problem = ViewEnded(
                        "A withdrawal ended or the model changed. Send the request again.", retry_after=1
                    )
                    await answer_to(problem)(scope, receive, send)
                else:
                    guard = asyncio.create_task(_cut_off(scope["state"]["connection"], engine, views))
            if not is_refused:
                await send(message)

        try:
            await self._app(scope, receive, guarded)
            if views and (connection := scope["state"]["connection"]).unsent_bytes:
                guard = guard or asyncio.create_task(_cut_off(connection, engine, views))
                while connection.unsent_bytes:
                    await asyncio.sleep(POLL_SECONDS)
        finally:
            if guard:
                guard.cancel()


async def _cut_off(connection: Any, engine: InferenceEngine, views: list[View]) -> None:
    """End the connection when a view no longer holds, or nobody can say in time whether it does."""
    while True:
        left = min(map(engine.views.seconds_left, views))
        await asyncio.sleep(max(0.0, left - CONFIRM_SECONDS))
        try:
            async with asyncio.timeout(min(map(engine.views.seconds_left, views))):
                holds = await engine.confirm(views, is_new=True)
        except TimeoutError:
            holds = False
        if not holds:
            connection.abort()
            return
