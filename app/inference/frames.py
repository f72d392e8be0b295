"""Bodies of JSON with raw tensors behind it, as HTTP has them: a header tells where the JSON ends."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response

from app.errors import Problem
from app.inference.tensors import BadFraming
from app.requests import LimitedRoute

HEAD_BYTES = "Inference-Header-Content-Length"
MAX_DIGITS = 18  # of a number that is worth reading


class CompressedBody(Problem):
    status, slug, title = 415, "compressed-body", "The request is compressed"


class TensorRoute(LimitedRoute):
    """FastAPI parses the JSON head; what follows it waits under `raw_of`."""

    async def prepared(self, request: Request) -> Request:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise CompressedBody("send the request without a Content-Encoding; nothing compressed is taken.")
        body, given = await request.body(), request.headers.get(HEAD_BYTES)
        split = len(body)
        if given is not None:
            if not given.isdecimal() or len(given) > MAX_DIGITS or int(given) > len(body):
                raise BadFraming(f"{HEAD_BYTES} is no number of bytes up to the {len(body)} of the body.")
            split = int(given)
        headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
        # Clients of the protocol send none, or application/octet-stream.
        headers.append((b"content-type", b"application/json"))
        request.scope["lirf.raw"] = memoryview(body)[split:]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body[:split], "more_body": False}

        return Request({**request.scope, "headers": headers}, receive)


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
