"""Turns errors into answers with problem details (RFC 9457)."""

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
MAX_DETAIL, MAX_TEXT, MAX_ERRORS = 4000, 300, 20  # of an answer: characters, characters of one error, errors

log = logging.getLogger(__name__)


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


class ProblemDetails(BaseModel):
    """Problem details. A problem may have further members, for example `errors` or `unreadable`."""

    type: str = Field(examples=[TYPE_PREFIX + "unknown-class"])
    title: str = Field(examples=["The model has no such class"])
    status: int = Field(examples=[422])
    detail: str = Field(
        examples=[
            "Model 'birds' has no class 'dodo'. Its classes are 'auk', 'emu' (2). Class names are case-sensitive."
        ]
    )


def _answer(
    status: int, slug: str, title: str, detail: str, members: dict[str, Any], headers: Any = None
) -> JSONResponse:
    # Clients of the Open Inference Protocol look for the message in `error`.
    detail = detail.encode("utf-8", "backslashreplace").decode()  # a hostile name may contain half of a surrogate pair
    detail = _shortened(detail, MAX_DETAIL)
    body = {"type": TYPE_PREFIX + slug, "title": title, "status": status, "detail": detail, "error": detail, **members}
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def answer_to(problem: Problem) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    return _answer(problem.status, problem.slug, problem.title, problem.detail, problem.members, headers)


class RefuseNul:
    """Answers 404 to a path with a NUL character. No name or id contains one, and PostgreSQL cannot store it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "\0" in scope["path"]:
            answer = _answer(404, "not-found", "Not Found", "The path must not contain a NUL character.", {})
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def phrase_of(status: int) -> str:
    """The phrase of an HTTP status. Python 3.13 renamed these two, but the type of a problem must stay the same."""
    return {413: "Request Entity Too Large", 422: "Unprocessable Entity"}.get(status) or HTTPStatus(status).phrase


def _methods(app: FastAPI, path: str) -> list[str]:
    """All methods that a path supports."""
    paths = app.openapi()["paths"].items()
    return sorted(
        name.upper() for pattern, operations in paths if compile_path(pattern)[0].match(path) for name in operations
    )


def install(app: FastAPI) -> None:
    """Make every error answer of the application problem+json, and say so in its OpenAPI description."""
    default_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        description = default_openapi()
        for operations in description["paths"].values():
            for operation in operations.values():
                problem = operation["responses"]["default"]
                problem["content"] = {MEDIA_TYPE: next(iter(problem["content"].values()))}
        return description

    app.openapi = openapi  # type: ignore[method-assign]

    @app.exception_handler(Problem)
    def answer_problem(request: Request, problem: Problem) -> JSONResponse:
        return answer_to(problem)

    @app.exception_handler(RequestValidationError)
    def answer_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        # `input` and `ctx` may contain what the client sent. Say where the fault is, but do not echo it.
        faults = error.errors()
        errors = [
            {
                "at": _shortened(".".join(map(str, fault["loc"])), MAX_TEXT),
                "message": _shortened(fault["msg"], MAX_TEXT),
            }
            for fault in faults[:MAX_ERRORS]
        ]
        detail = "; ".join(f"{e['at']}: {e['message']}" for e in errors[:5])
        members: dict[str, Any] = {"errors": jsonable_encoder(errors)}
        if len(faults) > MAX_ERRORS:
            members["errors_total"] = len(faults)
        return _answer(422, "invalid-request", "The request is not well-formed", detail, members)

    @app.exception_handler(HTTPException)
    def answer_http_error(request: Request, error: HTTPException) -> JSONResponse:
        phrase = phrase_of(error.status_code)
        detail = error.detail if error.detail != phrase else f"{phrase}: {request.method} {request.url.path}"
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # Starlette names only the first route's
            headers["Allow"] = ", ".join(_methods(app, request.url.path)) or headers.get("Allow", "")
        return _answer(error.status_code, phrase.lower().replace(" ", "-"), phrase, detail, {}, headers)

    @app.exception_handler(ClientDisconnect)
    def answer_disconnect(request: Request, error: ClientDisconnect) -> JSONResponse:
        detail = "The connection closed before the whole body had arrived. Send the request again."
        return _answer(400, "body-incomplete", "The body is incomplete", detail, {})

    @app.exception_handler(OperationalError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(PoolTimeout)
    def answer_database_error(request: Request, error: Exception) -> JSONResponse:
        log.error("the database failed", exc_info=error)
        detail = (
            "The database did not answer, and it is unknown whether a change was made. Look at the resource, or send "
            "the request again with the same Idempotency-Key."
        )
        headers = {"Retry-After": str(RETRY_SECONDS)}
        return _answer(503, "database-away", "The database did not answer", detail, {}, headers)

    @app.exception_handler(OSError)
    def answer_storage_error(request: Request, error: OSError) -> JSONResponse:
        log.error("the disk or the vault's store failed", exc_info=error)
        detail = (
            f"The disk or the vault's store failed ({error.strerror or type(error).__name__}). After an administrator "
            "has fixed it, look at the resource, or send the request again with the same Idempotency-Key."
        )
        headers = {"Retry-After": str(STORAGE_RETRY_SECONDS)}
        return _answer(503, "storage-away", "The storage failed", detail, {}, headers)

    @app.exception_handler(Exception)
    def answer_fault(request: Request, error: Exception) -> JSONResponse:
        detail = (
            "The service failed, and it is unknown whether a change was made. Look at the resource, then try again. "
            f"The service's log has details under request id {request_id.get()}."
        )
        headers = {HEADER: request_id.get()}
        return _answer(500, "internal-error", "Internal error", detail, {}, headers)
