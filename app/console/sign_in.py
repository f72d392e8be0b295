"""Who uses the console: an API key or a token, given once, which a sealed cookie holds from then on.

The key itself is looked up anew with each request, so that its end ends the session too, on every replica. The cookie
is sealed with the master key: who reads it, or the disk, learns no key.
"""

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final

from fastapi import Request, Response

from app.access.service import Actor
from app.api.authentication import identified, known
from app.base.errors import Problem
from app.vault.service import Vault, VaultDamaged

COOKIE: Final = "lirf_console"
PATH: Final = "/console"
OPEN: Final = ("/console/sign-in", "/console/sign-out")
MAX_BYTES: Final = 32 << 10  # of a form that anybody may send
SECONDS: Final = 8 * 3600
MAX_CHARACTERS: Final = 3000  # of a key, or of a provider's token: sealed it fits into the 4096 bytes of a cookie
_ASSOCIATED: Final = b'["console"]'


async def actor_of(request: Request) -> Actor:
    """The actor of the session. Raises `Unauthenticated` where there is none, and what `Callers.actor` does."""
    if (actor := known(request)) is None:
        bearer = _opened(request.state.vault, request.cookies.get(COOKIE, ""))
        request.state.actor = actor = await identified(request, bearer or "")
    return actor


def begin(request: Request, response: Response, bearer: str) -> None:
    """The browser keeps the sealed key, and sends it with what comes from the console's own pages alone."""
    told = json.dumps([int(time.time()) + SECONDS, bearer]).encode()
    vault: Vault = request.state.vault
    sealed = urlsafe_b64encode(vault.seal(told, _ASSOCIATED)).decode()
    response.set_cookie(COOKIE, sealed, max_age=SECONDS, **_of(request))


def end(request: Request, response: Response) -> None:
    response.delete_cookie(COOKIE, **_of(request))


def _of(request: Request) -> dict[str, Any]:
    return {"path": PATH, "httponly": True, "samesite": "strict", "secure": request.url.scheme == "https"}


def _opened(vault: Vault, cookie: str) -> str | None:
    try:
        ends, bearer = json.loads(vault.unseal(urlsafe_b64decode(cookie.encode()), _ASSOCIATED))
    except (VaultDamaged, ValueError):
        return None
    return bearer if ends > time.time() else None


def demand_same_origin(request: Request) -> None:
    """A form of another site changes nothing here. Raises `ForeignForm`.

    Browsers say where a request comes from (Fetch Metadata; `Origin` where they do not), and no site can change that.
    """
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin", "")
    if site == "same-origin" or (site is None and origin.partition("://")[2] == request.headers.get("Host")):
        return
    raise ForeignForm("the form was sent from another site; open the console and use its own.")


class ForeignForm(Problem):
    status, slug, title = 403, "foreign-form", "The form is of another site"
