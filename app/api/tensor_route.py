"""Bodies of JSON followed by raw tensors: a header says where the JSON ends."""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError

from app.access.service import Actor
from app.api.authentication import authenticate
from app.api.bodies import MAX_DIGITS, in_memory
from app.api.disconnects import stopped_with_client
from app.api.encodings import accepted, packed
from app.base.json_size import demand_few_values
from app.inference.deadline import Deadline, deadline
from app.inference.schemas import InferRequest
from app.inference.tensors import BadFraming

HEAD_BYTES = "Inference-Header-Content-Length"
MAX_VALUES, MAX_MEMBERS = 500_000, 10_000  # in the JSON: three images of 224 x 224 pixels in colour
MIN_PACKED_BYTES = 64 << 10  # of an answer that is compressed if its client accepts it
QUICK_BYTES = 32 << 10  # of JSON that is parsed on the event loop
TOKEN_HEADER, MAX_TOKENS = "withdrawal-token", 4096


class TensorRoute(APIRoute):
    """Reads an inference request and calls its endpoint directly: FastAPI's own way takes as long as everything else.

    The endpoint's parameters are those that `get_route_handler` passes; their declarations describe the API.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def answer(request: Request) -> Response:
            actor = await authenticate(request)
            with in_memory(request, actor.key_id) as request:
                body = await request.body()
                async with in_time(request) as limit:
                    return await self._answer(request, body, actor, limit)

        return answer

    async def _answer(self, request: Request, body: bytes, actor: Actor, limit: Deadline) -> Response:
        state, path = request.state, request.path_params
        head, raw = split(body, request.headers.get(HEAD_BYTES))
        if len(head) <= QUICK_BYTES:
            parsed = _parsed(head)
        else:
            parsed = await state.parsing.run(actor.key_id, _parsed, head)
        response: Response = await self.endpoint(
            path["name"],
            parsed,
            raw,
            actor,
            state.engine,
            state.decoders,
            _tokens_in(request),
            state.views,
            limit,
            path.get("version"),
        )
        coding = accepted(request.headers.get("accept-encoding", ""))
        if coding and len(response.body) >= MIN_PACKED_BYTES:
            await state.engine.turns.run(actor.key_id, _pack, response, coding)
        return response


def split(body: bytes, head_bytes: str | None) -> tuple[bytes, memoryview]:
    """The JSON head, and what follows it. head_bytes: the header's value. Raises `BadFraming`."""
    if head_bytes is None:
        return body, memoryview(b"")
    if not head_bytes.isdecimal() or len(head_bytes) > MAX_DIGITS or int(head_bytes) > len(body):
        raise BadFraming(f"{HEAD_BYTES} must be a number of bytes, at most the {len(body)} of the body.")
    end = int(head_bytes)
    return body[:end], memoryview(body)[end:]


@asynccontextmanager
async def in_time(request: Request) -> AsyncIterator[Deadline]:
    """Stop what runs inside at the deadline, or when the client has gone. Raises `DeadlinePassed`, `ClientDisconnect`.

    The body must have been read: how fast it arrives is the client's affair.
    """
    async with stopped_with_client(request), deadline(request.state.settings.inference_seconds) as limit:
        request.state.deadline = limit
        yield limit


async def deadline_of(request: Request) -> Deadline:
    """The deadline that `in_time` set."""
    limit: Deadline = request.state.deadline
    return limit


def _pack(response: Response, coding: str) -> None:
    response.body = packed(bytes(response.body), coding)
    response.headers.update(
        {"Content-Encoding": coding, "Content-Length": str(len(response.body)), "Vary": "Accept-Encoding"}
    )


async def raw_tensors(request: Request) -> memoryview:
    """What follows the JSON head of a request."""
    return split(await request.body(), request.headers.get(HEAD_BYTES))[1]


def tokens_of(header: str) -> tuple[str, ...]:
    """The tokens of held withdrawals in a header, separated by commas."""
    return tuple(token for token in map(str.strip, header.split(",")) if token)


def framed(parts: Sequence[bytes]) -> Response:
    """The answer. parts: its JSON, then raw tensors, if any."""
    if len(parts) == 1:
        return Response(parts[0], media_type="application/json")
    headers = {HEAD_BYTES: str(len(parts[0]))}
    return Response(b"".join(parts), headers=headers, media_type="application/octet-stream")


def _parsed(head: bytes) -> InferRequest:
    demand_few_values(head, MAX_VALUES, "Send fewer images, or send the tensors raw (`binary_data_size`).", MAX_MEMBERS)
    try:
        return InferRequest.model_validate_json(head)
    except ValidationError as error:
        raise RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]
        ) from error


def _tokens_in(request: Request) -> tuple[str, ...]:
    header = request.headers.get(TOKEN_HEADER, "")
    if len(header) > MAX_TOKENS:
        message = f"String should have at most {MAX_TOKENS} characters"
        raise RequestValidationError([{"loc": ("header", TOKEN_HEADER), "msg": message, "type": "string_too_long"}])
    return tokens_of(header)
