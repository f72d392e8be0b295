"""Limits on request bodies. Small bodies are held in memory, large ones are streamed to a file."""

import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from fastapi import HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Message

from app.api.authentication import authenticate
from app.api.idempotent_route import IdempotentRoute, claim_of, demand_new
from app.base.settings import Settings


def bounded(request: Request, limit: int) -> Request:
    """The same request; reading more than `limit` bytes of its body raises HTTPException 413."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return Request(request.scope, receive)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"The body is larger than the {limit} bytes that this route accepts. Send less.")


class LimitedRoute(IdempotentRoute):
    """A route that holds its body in memory. It reads at most `max_body_bytes`, and only if the key is valid.

    FastAPI would parse the body before it looks at the key, and its own `max_body_size` answers in plain text.
    """

    holds_body = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def limited(request: Request) -> Response:
            await authenticate(request)
            settings: Settings = request.state.settings
            return await handler(bounded(request, settings.max_body_bytes))

        return limited


@asynccontextmanager
async def streamed_to_file(request: Request, folder: Path, limit: int) -> AsyncIterator[BinaryIO]:
    """The body as a file without a name: it is gone when it is closed, even after a crash.

    Raises HTTPException 413 as soon as more than `limit` bytes have arrived.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        received, digest, claim = 0, hashlib.sha256(), claim_of(request)
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise _too_large(limit)
            await run_in_threadpool(file.write, chunk)
            if claim:
                await run_in_threadpool(digest.update, chunk)
        if claim:
            await demand_new(request, claim, digest.hexdigest())
        file.seek(0)
        yield cast(BinaryIO, file)
