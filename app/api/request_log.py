"""Gives each request an id, a line in the log and a count in the metrics."""

import logging
import time
from typing import Any

from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access import service as access
from app.base.request_id import HEADER, begin
from app.telemetry.metrics import Metrics

log = logging.getLogger("app.requests")
_QUIET = ("/v2/health/live", "/v2/health/ready", "/metrics")  # requested every few seconds


class RequestLog:
    """Middleware. Never logs a query, a header or a body, which may contain secrets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = begin(Headers(scope=scope).get(HEADER))
        access.act_for_nobody()
        # FastAPI has put the query into its span.
        trace.get_current_span().set_attributes({"lirf.request_id": request_id, "url.query": ""})
        status, begun = 500, time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            _record(scope, status, time.perf_counter() - begun)


def _record(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", None)
    labels = (scope["method"], route) if route else ("none", "none")  # unknown paths would fill the memory
    metrics: Metrics = scope["state"]["metrics"]
    metrics.requests.labels(*labels, status).inc()
    metrics.seconds.labels(*labels).observe(seconds)
    actor = scope["state"].get("actor")
    fields: dict[str, Any] = {
        "method": scope["method"],
        "route": route,
        "path": scope["path"],
        "status": status,
        "milliseconds": round(1000 * seconds, 1),
        "actor": getattr(actor, "name", None),
        "actor_id": getattr(actor, "key_id", None),
    }
    level = logging.DEBUG if route in _QUIET and status < 400 else logging.INFO
    log.log(level, "%s %s %s", scope["method"], scope["path"], status, extra=fields)
