"""Bearer tokens from an OpenID Connect provider. One claim of a token holds the roles of its subject.

Keys: OpenID Connect Discovery 1.0. Tokens: RFC 7519. Checks: RFC 8725.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from joserfc import jwk, jwt
from joserfc.errors import ExpiredTokenError, JoseError

from app.access.service import EXTERNAL, Actor, Forbidden, Role, Unauthenticated
from app.base.errors import Problem

log = logging.getLogger(__name__)

READER = "reader"  # access without a role: may ask for predictions and read what models are
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")  # asymmetric only
MAX_TOKEN = 16_384
LEEWAY_SECONDS = 30  # tolerated difference between clocks
FRESH_SECONDS, STALE_SECONDS = 600, 3600  # fetch keys again after the first; do not use them after the second
PAUSE_SECONDS = 30  # minimum time between two fetches
TIMEOUT_SECONDS = 5


class ProviderUnavailable(Problem):
    """The identity provider's keys could not be read. Send the token again later, or use an API key."""

    status, slug, title = 503, "identity-provider-away", "The identity provider did not answer"


def is_token(bearer: str) -> bool:
    """Whether the bearer looks like a signed token (RFC 7515, compact) and not like an API key."""
    return bearer.count(".") == 2 and not bearer.startswith("lirf_")


class IdentityProvider:
    """Checks the provider's tokens. Thread-safe. Fails closed: without the provider's keys, no token is accepted."""

    def __init__(self, issuer: str, audience: str, roles_claim: str, roles: Mapping[str, str]) -> None:
        """roles: the role, or `READER`, that each value of the claim grants. roles_claim: may be a dotted path."""
        self._issuer, self._audience, self._roles_claim, self._roles = issuer, audience, roles_claim, roles
        self._keys: list[Any] = []
        self._tried_at = self._fetched_at = -float(STALE_SECONDS)
        self._fetching = threading.Lock()
        self._claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )

    def actor(self, token: str) -> Actor:
        """The actor of a token.

        Raises `Unauthenticated`, `Forbidden` if the claim grants nothing, `ProviderUnavailable`.
        """
        try:
            if len(token) > MAX_TOKEN:
                raise ValueError("too long")
            claims = jwt.decode(token, self._key, algorithms=ALGORITHMS).claims
            self._claims.validate(claims)
            subject = claims["sub"]
            if not isinstance(subject, str) or not subject.isprintable():
                raise ValueError("no subject")
        except ExpiredTokenError:
            raise Unauthenticated("The token has expired. Get a new one from your identity provider.") from None
        except (JoseError, ValueError, TypeError, KeyError) as error:
            log.info("refused a token: %s", type(error).__name__)
            raise Unauthenticated(
                f"The token is not valid. It must be signed by {self._issuer}, issued for '{self._audience}' and valid "
                "now. Get a new one from your identity provider."
            ) from None
        name = f"{EXTERNAL}:{subject}"
        if len(name) > 100:
            name = f"{EXTERNAL}:{hashlib.sha256(subject.encode()).hexdigest()}"
        roles, ends_at = self._roles_of(claims, name), float(claims["exp"]) + LEEWAY_SECONDS
        return Actor(self._actor_id(subject), name, roles, token_ends_at=ends_at)

    def _actor_id(self, subject: str) -> str:
        """One id for all tokens of a person. No API key has such an id."""
        person = f"{len(self._issuer)}:{self._issuer}{subject}"
        return EXTERNAL + hashlib.sha256(person.encode()).hexdigest()[: 36 - len(EXTERNAL)]

    def _roles_of(self, claims: Mapping[str, Any], name: str) -> frozenset[Role]:
        claim: Any = claims.get(self._roles_claim)
        if claim is None:
            claim = claims
            for part in self._roles_claim.split("."):
                claim = claim.get(part) if isinstance(claim, Mapping) else None
        values = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
        granted = {self._roles[value] for value in values if isinstance(value, str) and value in self._roles}
        if not granted:
            raise Forbidden(
                f"The claim '{self._roles_claim}' of '{name}' grants no access here. It needs one of the values in "
                "LIRF_OIDC_ROLES; ask an administrator."
            )
        return frozenset(Role(role) for role in granted if role != READER)

    def _key(self, token: jwk.GuestProtocol) -> Any:
        """The provider's key that a token names. Fetches the keys again if that key is not among them."""
        key_id = token.headers().get("kid")
        is_fresh = time.monotonic() - self._fetched_at <= FRESH_SECONDS
        # One thread fetches; meanwhile the others use the keys that are already here.
        if (not is_fresh or self._find(key_id) is None) and self._fetching.acquire(blocking=not self._keys):
            try:
                self._fetch()
            finally:
                self._fetching.release()
        if time.monotonic() - self._fetched_at > STALE_SECONDS:
            raise ProviderUnavailable(
                f"{self._issuer} returned no keys to check tokens with. Try again later, or use an API key.",
                retry_after=PAUSE_SECONDS,
            )
        key = self._find(key_id)
        if key is None:
            raise ValueError("unknown key")
        return key

    def _find(self, key_id: object) -> Any:
        """The key with this id. For a token without a key id: the provider's key, if it has only one."""
        keys = self._keys
        if key_id is None:
            return keys[0] if len(keys) == 1 else None
        return next((key for key in keys if key.kid == key_id), None)

    def _fetch(self) -> None:
        """Fetch the provider's keys, unless the last attempt was a moment ago."""
        import httpx  # here, because few installations have a provider

        at = time.monotonic()
        if at - self._tried_at <= PAUSE_SECONDS:
            return
        self._tried_at = at
        try:
            with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
                discovery = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
                provider = client.get(discovery).raise_for_status().json()
                if provider["issuer"] != self._issuer:
                    raise ValueError(f"it calls itself '{provider['issuer']}'")
                descriptions = client.get(provider["jwks_uri"]).raise_for_status().json()["keys"]
            self._keys = [key for description in descriptions if (key := _usable_key(description))]
            self._fetched_at = at
        except (httpx.HTTPError, ValueError, TypeError, KeyError) as error:
            log.warning("the identity provider returned no keys: %s", error)


def _usable_key(description: Any) -> Any:
    """The key; None if it is of an unknown kind, which RFC 7517, section 5, says to ignore."""
    try:
        if description["kty"] not in ("EC", "RSA"):
            return None
        key = jwk.import_key(description)
        key.get_op_key("verify")
        return key
    except (JoseError, ValueError, TypeError, KeyError) as error:
        log.info("ignored a key of the identity provider: %s", type(error).__name__)
        return None
