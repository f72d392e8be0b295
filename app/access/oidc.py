"""Bearer tokens of an OpenID Connect provider: one claim of a token says which roles its subject has.

OpenID Connect Discovery 1.0 for the provider's keys; RFC 7519 for the token, RFC 8725 for what is checked of it.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx
from joserfc import jwk, jwt
from joserfc.errors import ExpiredTokenError, JoseError

from app.access.service import EXTERNAL, Actor, Forbidden, Role, Unauthenticated
from app.base.errors import Problem

log = logging.getLogger(__name__)

READER = "reader"  # has no role: may ask models, and read what they are
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")  # no shared secrets
MAX_TOKEN = 16_384
LEEWAY_SECONDS = 30  # that clocks may differ by
FRESH_SECONDS, STALE_SECONDS = 600, 3600  # keys are asked for again after the first, and not used after the second
PAUSE_SECONDS = 30  # between two questions for keys that are not there
TIMEOUT_SECONDS = 5


class ProviderAway(Problem):
    status, slug, title = 503, "identity-provider-away", "The identity provider did not answer"


def is_token(bearer: str) -> bool:
    """Whether it looks like a signed token (RFC 7515, compact) rather than an API key."""
    return bearer.count(".") == 2 and not bearer.startswith("lirf_")


class IdentityProvider:
    """Thread-safe. Fails closed: without the provider's keys nobody of it is let in."""

    def __init__(self, issuer: str, audience: str, roles_claim: str, roles: Mapping[str, str]) -> None:
        """roles: what a value of the claim grants, a role or `READER`. The claim may be a path by dots, too."""
        self._issuer, self._audience, self._roles_claim, self._roles = issuer, audience, roles_claim, roles
        self._keys: list[Any] = []
        self._asked_at = self._had_at = -float(STALE_SECONDS)
        self._asking = threading.Lock()
        self._claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )

    def actor(self, token: str) -> Actor:
        """Whose token it is. Raises `Unauthenticated`, `Forbidden` where the claim grants nothing, `ProviderAway`."""
        try:
            if len(token) > MAX_TOKEN:
                raise ValueError("too long")
            claims = jwt.decode(token, self._key, algorithms=ALGORITHMS).claims
            self._claims.validate(claims)
            subject = claims["sub"]
            if not isinstance(subject, str) or not subject.isprintable():
                raise ValueError("no subject")
        except ExpiredTokenError:
            raise Unauthenticated("the token has expired; get a new one from your identity provider.") from None
        except (JoseError, ValueError, TypeError, KeyError) as error:
            log.info("a token was refused: %s", type(error).__name__)
            raise Unauthenticated(
                f"the token is not one that {self._issuer} signed for '{self._audience}' and that is valid now."
            ) from None
        name = f"{EXTERNAL}:{subject}"
        if len(name) > 100:
            name = f"{EXTERNAL}:{hashlib.sha256(subject.encode()).hexdigest()}"
        return Actor(self._id_of(subject), name, self._roles_of(claims, name))

    def _id_of(self, subject: str) -> str:
        """The same for the same person, whatever token they show; another one than any API key has."""
        told = f"{len(self._issuer)}:{self._issuer}{subject}"
        return EXTERNAL + hashlib.sha256(told.encode()).hexdigest()[: 36 - len(EXTERNAL)]

    def _roles_of(self, claims: Mapping[str, Any], name: str) -> frozenset[Role]:
        found: Any = claims.get(self._roles_claim)
        if found is None:
            found = claims
            for part in self._roles_claim.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
        values = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
        granted = {self._roles[value] for value in values if isinstance(value, str) and value in self._roles}
        if not granted:
            raise Forbidden(f"the claim '{self._roles_claim}' of {name} grants nothing here; see LIRF_OIDC_ROLES.")
        return frozenset(Role(role) for role in granted if role != READER)

    def _key(self, token: jwk.GuestProtocol) -> Any:
        """The provider's key that a token names; asked for anew where it is not known."""
        wanted = token.headers().get("kid")
        is_fresh = time.monotonic() - self._had_at <= FRESH_SECONDS
        # While one asks, others go on with the keys there are.
        if (not is_fresh or self._known(wanted) is None) and self._asking.acquire(blocking=not self._keys):
            try:
                self._ask()
            finally:
                self._asking.release()
        if time.monotonic() - self._had_at > STALE_SECONDS:
            raise ProviderAway(
                f"{self._issuer} gave no keys to check tokens with; an API key works meanwhile.",
                retry_after=PAUSE_SECONDS,
            )
        found = self._known(wanted)
        if found is None:
            raise ValueError("unknown key")
        return found

    def _known(self, wanted: object) -> Any:
        """The key of that id, or the only key there is where a token names none."""
        keys = self._keys
        if wanted is None:
            return keys[0] if len(keys) == 1 else None
        return next((key for key in keys if key.kid == wanted), None)

    def _ask(self) -> None:
        """For the keys, unless that was done just now."""
        at = time.monotonic()
        if at - self._asked_at <= PAUSE_SECONDS:
            return
        self._asked_at = at
        try:
            with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
                discovery = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
                told = client.get(discovery).raise_for_status().json()
                if told["issuer"] != self._issuer:
                    raise ValueError(f"it calls itself '{told['issuer']}'")
                given = client.get(told["jwks_uri"]).raise_for_status().json()["keys"]
            self._keys = [key for one in given if (key := _fit(one))]
            self._had_at = at
        except (httpx.HTTPError, ValueError, TypeError, KeyError) as error:
            log.warning("no keys of the identity provider: %s", error)


def _fit(given: Any) -> Any:
    """The key, or None where it is of a kind that we do not know: RFC 7517, section 5."""
    try:
        if given["kty"] not in ("EC", "RSA"):
            return None
        key = jwk.import_key(given)
        key.get_op_key("verify")
        return key
    except (JoseError, ValueError, TypeError, KeyError) as error:
        log.info("a key of the identity provider is of no use here: %s", type(error).__name__)
        return None
