"""Problem details (RFC 9457): how errors become answers."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from app.base.errors import Problem
from app.base.request_id import HEADER, request_id

TYPE_PREFIX = "urn:lirf:problem:"
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS, STORAGE_RETRY_SECONDS = 2, 30

log = logging.getLogger(__name__)


class ProblemDetails(BaseModel):
    """The wire form; a problem may have further members, such as `errors` or `unreadable`."""

    type: str = Field(examples=[TYPE_PREFIX + "unknown-class"])
    title: str = Field(examples=["A class name is not one of the model's"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["model 'birds' has no class 'dodo'; its classes are 'auk', 'emu' (2)."])


def _answer(
    status: int, slug: str, title: str, detail: str, members: dict[str, Any], headers: Any = None
) -> JSONResponse:
    # `error` is where clients of the Open Inference Protocol look for the message.
    detail = detail.encode("utf-8", "backslashreplace").decode()  # a hostile name may hold half a surrogate pair
    body = {"type": TYPE_PREFIX + slug, "title": title, "status": status, "detail": detail, "error": detail, **members}
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


class RefuseNul:
    """No name or id holds a NUL character, and PostgreSQL takes none: answers 404 before any route sees it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "\0" in scope["path"]:
            answer = _answer(404, "not-found", "Not Found", "The path holds a NUL character.", {})
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _methods(app: FastAPI, path: str) -> list[str]:
    """All that a path may be asked."""
    paths = app.openapi()["paths"].items()
    return sorted(name.upper() for known, of in paths if compile_path(known)[0].match(path) for name in of)


def install(app: FastAPI) -> None:
    """Makes every error of the application a problem+json answer, in its description, too."""
    usual = app.openapi

    def described() -> dict[str, Any]:
        found = usual()
        for operation in (one for operations in found["paths"].values() for one in operations.values()):
            problem = operation["responses"]["default"]
            problem["content"] = {MEDIA_TYPE: next(iter(problem["content"].values()))}
        return found

    app.openapi = described  # type: ignore[method-assign]

    @app.exception_handler(Problem)
    def of_a_domain(request: Request, problem: Problem) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
        if problem.retry_after is not None:
            headers["Retry-After"] = str(problem.retry_after)
        return _answer(problem.status, problem.slug, problem.title, problem.detail, problem.members, headers)

    @app.exception_handler(RequestValidationError)
    def of_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        # `input` and `ctx` may hold what the client sent: say where and what, do not echo.
        found = [{"at": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()]
        detail = "; ".join(f"{e['at']}: {e['message']}" for e in found[:5])
        return _answer(
            422, "invalid-request", "The request is not well-formed", detail, {"errors": jsonable_encoder(found)}
        )

    @app.exception_handler(HTTPException)
    def of_http(request: Request, error: HTTPException) -> JSONResponse:
        phrase = HTTPStatus(error.status_code).phrase
        detail = error.detail if error.detail != phrase else f"{phrase}: {request.method} {request.url.path}"
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # Starlette names the first route's alone
            headers["Allow"] = ", ".join(_methods(app, request.url.path)) or headers.get("Allow", "")
        return _answer(error.status_code, phrase.lower().replace(" ", "-"), phrase, detail, {}, headers)

    @app.exception_handler(ClientDisconnect)
    def of_a_client_that_hung_up(request: Request, error: ClientDisconnect) -> JSONResponse:
        detail = "The body ended before all of it had come; send it again."
        return _answer(400, "body-incomplete", "The body is incomplete", detail, {})

    @app.exception_handler(OperationalError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(PoolTimeout)
    def of_the_database(request: Request, error: Exception) -> JSONResponse:
        log.error("the database failed", exc_info=error)
        detail = (
            "The database did not answer. Whether a change was made is not known: look at the resource, or send the "
            "request again with the same Idempotency-Key."
        )
        headers = {"Retry-After": str(RETRY_SECONDS)}
        return _answer(503, "database-away", "The database did not answer", detail, {}, headers)

    @app.exception_handler(OSError)
    def of_the_storage(request: Request, error: OSError) -> JSONResponse:
        log.error("the disk or the vault's store failed", exc_info=error)
        detail = (
            f"The disk or the vault's store failed ({error.strerror or type(error).__name__}). When an administrator "
            "has put it right, look at the resource, or send the request again with the same Idempotency-Key."
        )
        headers = {"Retry-After": str(STORAGE_RETRY_SECONDS)}
        return _answer(503, "storage-away", "The storage failed", detail, {}, headers)

    @app.exception_handler(Exception)
    def of_a_fault(request: Request, error: Exception) -> JSONResponse:
        detail = (
            "The service failed, and whether the change was made is not known: look at the resource, then try again. "
            f"The log of the service says more of request {request_id.get()}."
        )
        headers = {HEADER: request_id.get()}
        return _answer(500, "internal-error", "Internal error", detail, {}, headers)
