"""Bodies of JSON with raw tensors behind it, as HTTP has them: a header tells where the JSON ends."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.api.authentication import known
from app.api.bodies import LimitedRoute
from app.base.errors import Problem
from app.inference.schemas import InferRequest
from app.inference.tensors import BadFraming

HEAD_BYTES = "Inference-Header-Content-Length"
MAX_DIGITS = 18  # of a number that is worth reading
TOKEN_HEADER, MAX_TOKENS = "withdrawal-token", 4096


class CompressedBody(Problem):
    status, slug, title = 415, "compressed-body", "The request is compressed"


class TensorRoute(LimitedRoute):
    """Calls its endpoint as FastAPI would, which takes as long for it as all the rest together.

    The endpoint's parameters are those of `answering`; what it declares of them is what the API's description says.
    """

    def answering(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def answer(request: Request) -> Response:
            actor, state, path = known(request), request.state, request.path_params
            try:
                body = InferRequest.model_validate_json(await request.body())
            except ValidationError as error:
                found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
                raise RequestValidationError(found) from error
            given = request.headers.get(TOKEN_HEADER, "")
            if len(given) > MAX_TOKENS:
                told = f"String should have at most {MAX_TOKENS} characters"
                raise RequestValidationError(
                    [{"loc": ("header", TOKEN_HEADER), "msg": told, "type": "string_too_long"}]
                )
            response: Response = await self.endpoint(
                path["name"], request, body, actor, state.engine, state.decoders, tokens_of(given), path.get("version")
            )
            return response

        return answer

    async def prepared(self, request: Request) -> Request:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise CompressedBody("send the request without a Content-Encoding; nothing compressed is taken.")
        body, given = await request.body(), request.headers.get(HEAD_BYTES)
        split = len(body)
        if given is not None:
            if not given.isdecimal() or len(given) > MAX_DIGITS or int(given) > len(body):
                raise BadFraming(f"{HEAD_BYTES} is no number of bytes up to the {len(body)} of the body.")
            split = int(given)
        request.scope["lirf.raw"] = memoryview(body)[split:]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body[:split], "more_body": False}

        return Request(request.scope, receive)


def tokens_of(header: str) -> tuple[str, ...]:
    """Tokens of held withdrawals, by commas."""
    return tuple(token for token in map(str.strip, header.split(",")) if token)


def raw_of(request: Request) -> memoryview:
    """What followed the JSON head."""
    raw: memoryview = request.scope["lirf.raw"]
    return raw


def framed(parts: Sequence[bytes]) -> Response:
    """parts: the JSON, and raw tensors, if any."""
    if len(parts) == 1:
        return Response(parts[0], media_type="application/json")
    headers = {HEAD_BYTES: str(len(parts[0]))}
    return Response(b"".join(parts), headers=headers, media_type="application/octet-stream")
