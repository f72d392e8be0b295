"""Bodies of JSON followed by raw tensors: a header says where the JSON ends."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError

from app.api.authentication import authenticate
from app.api.bodies import bounded
from app.base.errors import Problem
from app.inference.schemas import InferRequest
from app.inference.tensors import BadFraming

HEAD_BYTES = "Inference-Header-Content-Length"
MAX_DIGITS = 18  # of a length that is worth parsing
TOKEN_HEADER, MAX_TOKENS = "withdrawal-token", 4096


class CompressedBody(Problem):
    """An inference request has a `Content-Encoding`. Send it uncompressed."""

    status, slug, title = 415, "compressed-body", "The request is compressed"


class TensorRoute(APIRoute):
    """Reads an inference request and calls its endpoint directly: FastAPI's own way takes as long as everything else.

    The endpoint's parameters are those that `get_route_handler` passes; their declarations describe the API.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def answer(request: Request) -> Response:
            actor = await authenticate(request)
            state, path = request.state, request.path_params
            if request.headers.get("content-encoding", "identity") != "identity":
                raise CompressedBody("Send the request without a Content-Encoding: compressed bodies are not accepted.")
            body = await bounded(request, state.settings.max_body_bytes).body()
            head, raw = split(body, request.headers.get(HEAD_BYTES))
            response: Response = await self.endpoint(
                path["name"],
                _parsed(head),
                raw,
                actor,
                state.engine,
                state.decoders,
                _tokens_in(request),
                path.get("version"),
            )
            return response

        return answer


def split(body: bytes, head_bytes: str | None) -> tuple[bytes, memoryview]:
    """The JSON head, and what follows it. head_bytes: the header's value. Raises `BadFraming`."""
    if head_bytes is None:
        return body, memoryview(b"")
    if not head_bytes.isdecimal() or len(head_bytes) > MAX_DIGITS or int(head_bytes) > len(body):
        raise BadFraming(f"{HEAD_BYTES} must be a number of bytes, at most the {len(body)} of the body.")
    end = int(head_bytes)
    return body[:end], memoryview(body)[end:]


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
    try:
        return InferRequest.model_validate_json(head)
    except ValidationError as error:
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]) from error


def _tokens_in(request: Request) -> tuple[str, ...]:
    header = request.headers.get(TOKEN_HEADER, "")
    if len(header) > MAX_TOKENS:
        message = f"String should have at most {MAX_TOKENS} characters"
        raise RequestValidationError([{"loc": ("header", TOKEN_HEADER), "msg": message, "type": "string_too_long"}])
    return tokens_of(header)
