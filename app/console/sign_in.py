"""Who uses the console: an API key or an identity provider's token, kept in a sealed cookie after signing in.

Each request looks up the session and the key, so that the session ends at the sign-out, and with its key, on every
replica. The master key seals the cookie, so nobody can read the key from it.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from app.access import console_sessions
from app.access.service import Actor
from app.api.authentication import admit, cached_actor, identify
from app.base.database import Database
from app.base.errors import Problem
from app.vault.service import Vault, VaultDamaged

COOKIE: Final = "lirf_console"
PATH: Final = "/console"
OPEN: Final = ("/console/sign-in", "/console/sign-out")
MAX_BYTES: Final = 32 << 10  # of a form that anyone may send
SECONDS: Final = 8 * 3600
MAX_CHARACTERS: Final = 3000  # of a key or token; sealed, it still fits into the 4096 bytes of a cookie
_ASSOCIATED: Final = b'["console"]'


async def actor_of(request: Request) -> Actor:
    """The actor of the session. Raises `Unauthenticated` if there is none, and what `Callers.actor` and `admit` do."""
    if (actor := cached_actor(request)) is None:
        bearer = await run_in_threadpool(_bearer_of, request)
        actor = await identify(request, bearer or "")
    return admit(request, actor)


def begin(request: Request, response: Response, actor: Actor, bearer: str) -> None:
    """Store the sealed key in the browser, which sends it only with requests from the console's own pages."""
    database: Database = request.state.database
    with database.session() as writing:
        session_id = console_sessions.begin(writing, actor, SECONDS)
    session = json.dumps([session_id, bearer]).encode()
    vault: Vault = request.state.vault
    sealed = urlsafe_b64encode(vault.seal(session, _ASSOCIATED)).decode()
    response.set_cookie(COOKIE, sealed, max_age=SECONDS, **_attributes(request))


def end(request: Request, response: Response) -> None:
    """End the session here and in the browser, so that a copy of the cookie is worth nothing."""
    if opened := _opened(request):
        with request.state.database.session() as session:
            console_sessions.end(session, opened.session_id)
    response.delete_cookie(COOKIE, **_attributes(request))


def _attributes(request: Request) -> dict[str, Any]:
    return {"path": PATH, "httponly": True, "samesite": "strict", "secure": request.url.scheme == "https"}


@dataclass(frozen=True)
class _Opened:
    """What the cookie holds."""

    session_id: str
    bearer: str


def _opened(request: Request) -> _Opened | None:
    vault: Vault = request.state.vault
    try:
        sealed = urlsafe_b64decode(request.cookies.get(COOKIE, "").encode())
        session_id, bearer = json.loads(vault.unseal(sealed, _ASSOCIATED))
    except (VaultDamaged, ValueError):
        return None
    return _Opened(session_id, bearer) if isinstance(session_id, str) else None  # earlier versions had the end here


def _bearer_of(request: Request) -> str | None:
    """The key or token of the session; None if nobody is signed in."""
    opened = _opened(request)
    if opened is None:
        return None
    with request.state.database.reading() as session:
        return opened.bearer if console_sessions.is_signed_in(session, opened.session_id) else None


def demand_same_origin(request: Request) -> None:
    """Refuse a form from another site. Raises `ForeignForm`.

    Browsers say where a request comes from (Fetch Metadata, or else `Origin`), and no site can change that.
    """
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin", "")
    if site == "same-origin" or (site is None and origin.partition("://")[2] == request.headers.get("Host")):
        return
    raise ForeignForm("The form was sent from another site. Open the console and use its own form.")


class ForeignForm(Problem):
    """A form of the console came from another site. Open the console and use its own form."""

    status, slug, title = 403, "foreign-form", "The form comes from another site"
