"""Who shows a token of the identity provider has the roles that its claim says; every other token is refused."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from joserfc import jwk, jwt
from pydantic import ValidationError

from app.access import oidc
from app.base.settings import Settings
from lirf_client import AwaitingApproval, Client, LirfError
from tests.app.conftest import HTTP, Service, started

AUDIENCE = "lirf"
ODD_KEYS = [
    {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA", "kid": "odd"},
    {"kid": "none"},
    "no key",
    {"kty": "RSA"},
]


class Provider:
    """An OpenID Connect provider: discovery, keys, and tokens of whoever is asked for."""

    def __init__(self) -> None:
        self.key = jwk.ECKey.generate_key("P-256", {"kid": "first", "use": "sig"})
        self.is_away, self.asked, self.pause_seconds = False, 0, 0.0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                time.sleep(provider.pause_seconds)
                if provider.is_away:
                    self.send_error(500)
                    return
                documents: dict[str, object] = {
                    "/.well-known/openid-configuration": {
                        "issuer": provider.issuer,
                        "jwks_uri": f"{provider.issuer}/keys",
                    },
                    "/keys": {"keys": [*ODD_KEYS, provider.key.as_dict(private=False)]},
                }
                body = json.dumps(documents[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        """A token of alice, an administrator, for an hour; claims given as None are left out."""
        usual = {"iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 3600}
        whole = {**usual, "roles": ["administrator"], **claims}
        told = {"alg": "ES256", "kid": self.key.kid, **(header or {})}
        return jwt.encode(
            {name: value for name, value in told.items() if value is not None},
            {name: value for name, value in whole.items() if value is not None},
            key or self.key,
            algorithms=[told["alg"]],
        )


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.server.shutdown()
    provider.server.server_close()


@pytest.fixture
def url(service: Service, provider: Provider) -> Iterator[str]:
    """A second replica of the service, which knows the provider."""
    known = {"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE, "oidc_roles": ROLES}
    with started(service.settings.model_copy(update=known)) as (url, _):
        yield url


ROLES = {"administrator": "administrator", "lirf-custodians": "custodian", "everyone": "reader"}


def asked(url: str, token: str, path: str = "/v1/keys") -> httpx.Response:
    return HTTP.get(url + path, headers={"Authorization": f"Bearer {token}"})


def test_a_claim_says_the_roles_and_the_audit_who_it_was(service: Service, provider: Provider, url: str) -> None:
    service.register()
    deposit_id = service.deposit(["auk"])
    custodian = Client(url, provider.token(sub="carol", roles=["lirf-custodians", "something else"]))
    withdrawal = custodian.withdraw([deposit_id], holder="h", reason="r")
    assert withdrawal["created_by"] == "oidc:carol"
    (event,) = service.auditor.audit_events(action="withdrawal.opened")
    assert event["actor"] == "oidc:carol"
    with pytest.raises(LirfError, match="needs the role"):
        custodian.purge(deposit_id, classes=["auk"], reason="r")
    assert asked(url, provider.token()).status_code == 200
    reader = provider.token(sub="rita", roles="everyone")
    assert asked(url, reader, "/v1/models").status_code == 200
    assert asked(url, reader).json()["type"] == "urn:lirf:problem:forbidden"
    assert service.administrator.models()  # API keys go on


def test_who_is_granted_nothing_is_refused(provider: Provider, url: str) -> None:
    for roles in (None, [], ["unheard of"], [7], {"administrator": True}, 7):
        answer = asked(url, provider.token(roles=roles), "/v1/models")
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:lirf:problem:forbidden"), roles


def test_only_valid_tokens_of_the_provider_for_this_service_are_taken(provider: Provider, url: str) -> None:
    hour = int(time.time()) + 3600
    stranger = jwk.ECKey.generate_key("P-256", {"kid": provider.key.kid})
    public = json.dumps(provider.key.as_dict(private=False)).encode()
    shared = jwk.OctKey.import_key(public)
    good = provider.token()
    head, body, signature = good.split(".")
    tokens = {
        "another's signature": provider.token(key=stranger),
        "another issuer": provider.token(iss="https://elsewhere.org"),
        "no issuer": provider.token(iss=None),
        "another audience": provider.token(aud="payroll"),
        "no audience": provider.token(aud=None),
        "expired": provider.token(exp=hour - 7200),
        "without an end": provider.token(exp=None),
        "an end that is no number": provider.token(exp="soon"),
        "not yet valid": provider.token(nbf=hour),
        "nobody's": provider.token(sub=None),
        "a subject that is no text": provider.token(sub=7),
        "a subject with a line break": provider.token(sub="alice\nadministrator"),
        "an unknown key": provider.token({"kid": "never seen"}),
        "a public key as a shared secret": provider.token({"alg": "HS256"}, shared),
        "unsigned": f"{jwt_part({'alg': 'none'})}.{body}.",
        "cut": good[:-8],
        "another body": f"{head}.{jwt_part({'sub': 'alice', 'exp': hour})}.{signature}",
        "too long": provider.token(filler="x" * 20_000),
        "no token": "a.b.c",
    }
    for what, token in tokens.items():
        answer = asked(url, token)
        assert answer.status_code == 401, what
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert token not in answer.text
    assert asked(url, good).status_code == 200
    assert asked(url, provider.token({"kid": None})).status_code == 200  # there is one key alone


def jwt_part(content: dict[str, Any]) -> str:
    from joserfc.util import urlsafe_b64encode

    return urlsafe_b64encode(json.dumps(content).encode()).decode()


def test_keys_are_changed_without_a_restart_and_asked_for_in_bounds(
    provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(url, provider.token()).status_code == 200
    before = provider.asked
    for number in range(20):
        assert asked(url, provider.token({"kid": f"made up {number}"})).status_code == 401
    assert provider.asked - before <= 2  # discovery and keys, once in the pause
    provider.key = jwk.ECKey.generate_key("P-256", {"kid": "second", "use": "sig"})
    monkeypatch.setattr(oidc, "PAUSE_SECONDS", 0)
    assert asked(url, provider.token()).status_code == 200


def test_a_provider_that_is_slow_keeps_nobody_waiting_whose_key_is_known(
    provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(url, provider.token()).status_code == 200
    monkeypatch.setattr(oidc, "PAUSE_SECONDS", 0)
    provider.pause_seconds = 1.5
    slow = threading.Thread(target=asked, args=(url, provider.token({"kid": "unknown"})))
    slow.start()
    time.sleep(0.3)
    begun = time.monotonic()
    assert asked(url, provider.token()).status_code == 200
    assert time.monotonic() - begun < 1.2
    slow.join()


def test_without_the_providers_keys_nobody_of_it_is_let_in(
    service: Service, provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "PAUSE_SECONDS", 0)
    provider.is_away = True
    answer = asked(url, provider.token())
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:lirf:problem:identity-provider-away")
    assert "Retry-After" in answer.headers
    assert Client(url, service.key_of("another")).models() == []
    provider.is_away = False
    assert asked(url, provider.token()).status_code == 200
    provider.is_away = True
    monkeypatch.setattr(oidc, "FRESH_SECONDS", 0)
    assert asked(url, provider.token()).status_code == 200  # for a while with those it had
    monkeypatch.setattr(oidc, "STALE_SECONDS", 0)
    assert asked(url, provider.token()).status_code == 503


def test_a_token_of_a_provider_is_one_of_two_persons(service: Service, provider: Provider, url: str) -> None:
    service.register()
    deposit_id = service.deposit(["auk"])
    service.administrator.change_policy("birds", reason="two", needs_second_person=True)
    with pytest.raises(AwaitingApproval) as awaiting:
        Client(url, provider.token(jti="monday")).withdraw([deposit_id], holder="h", reason="r")
    asked_for = awaiting.value.approval
    with pytest.raises(LirfError, match="asked for this itself"):
        Client(url, provider.token(jti="tuesday")).approve(asked_for["id"])  # the same person, another token
    assert Client(url, provider.token(sub="bob")).approve(asked_for["id"])["decided_by"] == "oidc:bob"


def test_a_service_without_a_provider_takes_no_token(service: Service, provider: Provider) -> None:
    answer = asked(service.url, provider.token())
    assert (answer.status_code, provider.asked) == (401, 0)


@pytest.mark.parametrize(
    "given",
    [{"oidc_issuer": "https://a.org"}, {"oidc_audience": "a"}, {"oidc_issuer": "http://a.org", "oidc_audience": "a"}],
)
def test_settings_name_a_provider_wholly_and_safely(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="oidc_issuer"):
        Settings(**given)  # type: ignore[arg-type]
