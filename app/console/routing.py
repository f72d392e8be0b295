"""How the console answers: pages for people, even for refusals. Pages load nothing from other sites."""

import logging
import secrets
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi.templating import Jinja2Templates
from pydantic import ValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app.access.service import Actor, Role, Unauthenticated
from app.api.bodies import bounded
from app.api.dependencies import with_role
from app.base.errors import Problem
from app.console import sign_in
from app.evidence import plots

log = logging.getLogger(__name__)
UNAVAILABLE = "The database or the vault does not answer. Check whether your change was made before you try again."
FOLDER = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
templates = Jinja2Templates([FOLDER / "templates", plots.TEMPLATES])
templates.env.globals["Role"] = Role
templates.env.globals["once"] = lambda: secrets.token_urlsafe(16)  # a form with it is carried out once
templates.env.filters["percent"] = lambda value: "not measured" if value is None else f"{value:.1f} %"
templates.env.filters["points"] = lambda value: "–" if value is None else f"{value:.1f}"
templates.env.filters["time"] = lambda value: f"{value:%Y-%m-%d %H:%M} UTC" if value else ""


def page(request: Request, name: str, status: int = 200, /, **context: Any) -> Response:
    actor = getattr(request.state, "actor", None)
    return templates.TemplateResponse(request, name, {"actor": actor, **context}, status_code=status)


def redirect(path: str) -> RedirectResponse:
    """After a change, send the browser to the page that shows it. A reload of that page repeats nothing."""
    return RedirectResponse(path, HTTPStatus.SEE_OTHER)


class ConsoleRoute(APIRoute):
    """Refusals are pages too. Anyone who is not signed in is sent to sign in before a body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                if request.method != "GET":
                    sign_in.demand_same_origin(request)
                if self.path in sign_in.OPEN:
                    limit = sign_in.MAX_BYTES
                else:
                    await sign_in.actor_of(request)
                    limit = request.state.settings.max_body_bytes
                response = await handler(bounded(request, limit))
            except Unauthenticated:
                response = _to_sign_in(request)
            except Problem as problem:
                response = _refused(request, problem.status, problem.title, problem.detail)
                if problem.retry_after is not None:
                    response.headers["Retry-After"] = str(problem.retry_after)
            except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
                log.error("the database or the vault failed", exc_info=error)
                response = _refused(request, 503, "The service cannot answer now", UNAVAILABLE)
            except (RequestValidationError, ValidationError) as error:
                faults = "; ".join(f"{e['loc'][-1] if e['loc'] else 'form'}: {e['msg']}" for e in error.errors()[:5])
                response = _refused(request, 422, "Something in the form is missing or wrong", faults)
            except HTTPException as error:
                response = _refused(request, error.status_code, HTTPStatus(error.status_code).phrase, error.detail)
            response.headers.update(HEADERS)
            return response

        return answered


def _refused(request: Request, status: int, title: str, detail: str) -> Response:
    name = "refusal.html" if "HX-Request" in request.headers else "problem.html"
    return page(request, name, status, title=title, detail=detail)


def _to_sign_in(request: Request) -> Response:
    is_part = "HX-Request" in request.headers  # a part of a page; the whole page must come back after signing in
    destination = urlsplit(request.headers.get("HX-Current-URL", "")).path if is_part else request.url.path
    if request.method != "GET" and not is_part:
        destination = ""
    path = "/console/sign-in" + (f"?next={quote(destination)}" if destination else "")
    if is_part:
        return Response(status_code=401, headers={"HX-Redirect": path})
    return redirect(path)


Anybody = Annotated[Actor, Depends(sign_in.actor_of)]
Operator = Annotated[Actor, with_role(sign_in.actor_of, Role.OPERATOR)]
Custodian = Annotated[Actor, with_role(sign_in.actor_of, Role.CUSTODIAN)]
Auditor = Annotated[Actor, with_role(sign_in.actor_of, Role.AUDITOR)]
Decider = Annotated[Actor, with_role(sign_in.actor_of, Role.OPERATOR, Role.CUSTODIAN)]
Examiner = Annotated[Actor, with_role(sign_in.actor_of, Role.OPERATOR, Role.AUDITOR)]
Administrator = Annotated[Actor, with_role(sign_in.actor_of, Role.ADMINISTRATOR)]
