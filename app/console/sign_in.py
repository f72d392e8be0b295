"""Who uses the console: an API key or an identity provider's token, kept in a sealed cookie after signing in.

Each request looks the key up again, so that the session ends with its key on every replica. The master key seals the
cookie, so nobody can read the key from it.
"""

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final

from fastapi import Request, Response

from app.access.service import Actor
from app.api.authentication import cached_actor, identify
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
    """The actor of the session. Raises `Unauthenticated` if there is none, and what `Callers.actor` does."""
    if (actor := cached_actor(request)) is None:
        bearer = _opened(request.state.vault, request.cookies.get(COOKIE, ""))
        request.state.actor = actor = await identify(request, bearer or "")
    return actor


def begin(request: Request, response: Response, bearer: str) -> None:
    """Store the sealed key in the browser, which sends it only with requests from the console's own pages."""
    session = json.dumps([int(time.time()) + SECONDS, bearer]).encode()
    vault: Vault = request.state.vault
    sealed = urlsafe_b64encode(vault.seal(session, _ASSOCIATED)).decode()
    response.set_cookie(COOKIE, sealed, max_age=SECONDS, **_attributes(request))


def end(request: Request, response: Response) -> None:
    response.delete_cookie(COOKIE, **_attributes(request))


def _attributes(request: Request) -> dict[str, Any]:
    return {"path": PATH, "httponly": True, "samesite": "strict", "secure": request.url.scheme == "https"}


def _opened(vault: Vault, cookie: str) -> str | None:
    try:
        ends, bearer = json.loads(vault.unseal(urlsafe_b64decode(cookie.encode()), _ASSOCIATED))
    except (VaultDamaged, ValueError):
        return None
    return bearer if ends > time.time() else None


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
