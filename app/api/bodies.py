"""Limits on request bodies. Small bodies are held in memory, large ones are streamed to a file."""

import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.types import Message

from app.api.authentication import authenticate
from app.api.body_memory import Body, BodyMemory
from app.api.encodings import Unpacking
from app.api.idempotent_route import IdempotentRoute, claim_of, demand_new
from app.base.json_size import TooManyValues, demand_few_values

MAX_DIGITS = 18  # of a length that is worth parsing
QUICK_BYTES = 32 << 10  # of JSON that is parsed on the event loop
MAX_VALUES, MAX_MEMBERS = 250_000, 10_000  # in a JSON body; a model may have 100,000 class names


@contextmanager
def in_memory(request: Request, caller: str) -> Iterator[Request]:
    """The same request, unpacked, whose body is held in memory until this ends, at most `max_body_bytes` of it.

    Raises what `bounded` raises; reading also raises `BodiesTooLarge`.
    """
    memory: BodyMemory = request.state.body_memory
    with memory.of(caller) as body:
        yield bounded(request, request.state.settings.max_body_bytes, caller, body)


def bounded(request: Request, limit: int, caller: str = "", held: Body | None = None) -> Request:
    """The same request, unpacked; reading more than `limit` bytes of its body raises HTTPException 413.

    caller: takes turns with others to unpack bodies. held: counts what arrives.
    Raises `UnknownEncoding`; reading raises `DamagedEncoding`.
    """
    coding = request.headers.get("content-encoding", "identity")
    unpacking = None if coding.strip().lower() in ("", "identity") else Unpacking(coding)
    declared = request.headers.get("content-length", "")
    received = 0

    async def receive() -> Message:
        nonlocal received
        if held and not received and not unpacking and declared.isdecimal() and len(declared) < MAX_DIGITS:
            await held.reserve(min(int(declared), limit))
        message = await request.receive()
        if message["type"] == "http.request" and unpacking:
            body = await request.state.parsing.run(caller, _unpack, unpacking, message, limit - received)
            message = {**message, "body": body}
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        if held:
            await held.arrive(len(message.get("body", b"")))
        return message

    return Request(request.scope, receive)


def _unpack(unpacking: Unpacking, message: Message, allowed: int) -> bytes:
    """What a piece of a body unpacks to; stops soon after it is more than allowed."""
    unpacked = bytearray()
    for piece in unpacking.unpacked(message.get("body", b"")):
        unpacked += piece
        if len(unpacked) > allowed:
            return bytes(unpacked)
    if not message.get("more_body"):
        unpacking.end()
    return bytes(unpacked)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"The body is larger than the {limit} bytes that this route accepts. Send less.")


class LimitedRoute(IdempotentRoute):
    """A route that holds its body in memory. It reads at most `max_body_bytes`, and only if the key may use the route.

    FastAPI would parse the body before it looks at the key, and on the event loop however large it is. Its own
    `max_body_size` answers in plain text.
    """

    holds_body = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        takes_json = self.body_field is not None

        async def limited(request: Request) -> Response:
            actor = await self.admitted(request)
            with in_memory(request, actor.key_id) as request:
                if takes_json and _may_be_json(request) and len(body := await request.body()) > QUICK_BYTES:
                    request._json = await request.state.parsing.run(actor.key_id, _parsed, body)
                return await handler(request)

        return limited


def _may_be_json(request: Request) -> bool:
    """Whether FastAPI would parse the body as JSON."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _parsed(body: bytes) -> Any:
    demand_few_values(body, MAX_VALUES, "Send less.")
    members = 0

    def counted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal members
        members += len(pairs)
        if members > MAX_MEMBERS:
            raise TooManyValues(f"The JSON has more than {MAX_MEMBERS:,} members. Send less.")
        return dict(pairs)

    try:
        return json.loads(body, object_pairs_hook=counted)
    except ValueError as error:
        position, message = getattr(error, "pos", 0), getattr(error, "msg", "the text is not UTF-8")
        fault = {"type": "json_invalid", "loc": ("body", position), "msg": f"JSON decode error: {message}"}
        raise RequestValidationError([fault]) from error
    except RecursionError as error:
        fault = {"type": "json_invalid", "loc": ("body",), "msg": "The JSON is nested too deeply"}
        raise RequestValidationError([fault]) from error


@asynccontextmanager
async def streamed_to_file(request: Request, folder: Path, limit: int) -> AsyncIterator[BinaryIO]:
    """The body, unpacked, as a file without a name: it is gone when it is closed, even after a crash.

    Raises HTTPException 413 as soon as more than `limit` bytes have arrived.
    """
    actor = await authenticate(request)
    with tempfile.TemporaryFile(dir=folder) as file:
        digest, claim = hashlib.sha256(), claim_of(request)
        async for chunk in bounded(request, limit, actor.key_id).stream():
            await run_in_threadpool(file.write, chunk)
            if claim:
                await run_in_threadpool(digest.update, chunk)
        if claim:
            await demand_new(request, claim, digest.hexdigest())
        file.seek(0)
        yield cast(BinaryIO, file)
