"""Large bodies are streamed to a file without a name; all others are under FastAPI's `max_body_size`."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, cast

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

ANY_SIZE = 1 << 62  # for a route that streams its body and counts it itself


@asynccontextmanager
async def streamed_to_file(request: Request, folder: Path, limit: int) -> AsyncIterator[BinaryIO]:
    """The body as a file that has no name and is gone when it is closed, also after a crash.

    Raises HTTPException 413 as soon as more than `limit` bytes have come, whatever Content-Length said.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise HTTPException(413, f"the body is larger than the {limit} bytes that are taken here; send less.")
            await run_in_threadpool(file.write, chunk)
        file.seek(0)
        yield cast(BinaryIO, file)
