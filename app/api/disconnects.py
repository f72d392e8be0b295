"""Stops the work for clients that have gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.requests import ClientDisconnect

PATIENCE_SECONDS = 0.05  # most requests are answered before, and cost no task that watches their client


@asynccontextmanager
async def stopped_with_client(request: Request) -> AsyncIterator[None]:
    """Cancel what runs inside when the client closes its connection. The body must have been read.

    Raises `ClientDisconnect` then.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    watching: list[asyncio.Task[None]] = []
    has_gone = False

    async def watch() -> None:
        nonlocal has_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        has_gone = True
        task.cancel()

    timer = loop.call_later(PATIENCE_SECONDS, lambda: watching.append(loop.create_task(watch())))
    try:
        yield
    except asyncio.CancelledError:
        if has_gone and task.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        for watcher in watching:
            watcher.cancel()
