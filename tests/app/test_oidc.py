"""A token of the identity provider grants the roles in its claim; every other token is refused."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest
from joserfc import jwk
from pydantic import ValidationError

from app.access import oidc
from app.base.settings import Settings
from app.registry import service as registry
from lirf_client import AwaitingApproval, Client, LirfError
from tests.app.conftest import HTTP, Service, begins_with, started
from tests.app.factories import deposit_zip, infer_request
from tests.app.identity_provider import AUDIENCE, Provider


@pytest.fixture
def url(service: Service, provider: Provider) -> Iterator[str]:
    """A second replica of the service, configured with the provider."""
    options = {"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE, "oidc_roles": ROLES}
    with started(service.settings.model_copy(update=options)) as (url, _):
        yield url


ROLES = {"administrator": "administrator", "lirf-custodians": "custodian", "everyone": "reader"}


def get(url: str, token: str, path: str = "/v1/keys") -> httpx.Response:
    return HTTP.get(url + path, headers={"Authorization": f"Bearer {token}"})


@begins_with("auk")
def test_the_claim_grants_roles_and_the_audit_names_the_subject(service: Service, provider: Provider, url: str) -> None:
    deposit_id = service.deposits[0]
    custodian = Client(url, provider.token(sub="carol", roles=["lirf-custodians", "something else"]))
    withdrawal = custodian.withdraw([deposit_id], holder="h", reason="r")
    assert withdrawal["created_by"] == "oidc:carol"
    (event,) = service.auditor.audit_events(action="withdrawal.opened")
    assert event["actor"] == "oidc:carol"
    with pytest.raises(LirfError, match="Missing role 'administrator'"):
        custodian.purge(deposit_id, classes=["auk"], reason="r")
    assert get(url, provider.token()).status_code == 200
    reader = provider.token(sub="rita", roles="everyone")
    assert get(url, reader, "/v1/models").status_code == 200
    assert get(url, reader).json()["type"] == "urn:lirf:problem:forbidden"
    assert service.administrator.models()  # API keys still work


def test_a_stored_answer_is_only_for_those_who_still_have_the_role(provider: Provider, url: str) -> None:
    body = {"name": "shop", "roles": []}

    def create(roles: list[str]) -> httpx.Response:
        token = provider.token(roles=roles)
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "one-and-the-same"}
        return HTTP.post(f"{url}/v1/keys", headers=headers, json=body)

    first = create(["administrator"])
    assert create(["administrator"]).json() == first.json()
    refused = create(["lirf-custodians"])
    assert refused.json()["type"] == "urn:lirf:problem:forbidden"
    assert first.json()["key"] not in refused.text


def test_a_token_that_grants_nothing_is_refused(provider: Provider, url: str) -> None:
    for roles in (None, [], ["unheard of"], [7], {"administrator": True}, 7):
        answer = get(url, provider.token(roles=roles), "/v1/models")
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:lirf:problem:forbidden"), roles


def test_only_valid_tokens_from_the_provider_for_this_service_are_accepted(provider: Provider, url: str) -> None:
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
        "without an expiry": provider.token(exp=None),
        "an expiry that is not a number": provider.token(exp="soon"),
        "not yet valid": provider.token(nbf=hour),
        "nobody's": provider.token(sub=None),
        "a subject that is not text": provider.token(sub=7),
        "a subject with a line break": provider.token(sub="alice\nadministrator"),
        "an unknown key": provider.token({"kid": "never seen"}),
        "a public key as a shared secret": provider.token({"alg": "HS256"}, shared),
        "unsigned": f"{jwt_part({'alg': 'none'})}.{body}.",
        "truncated": good[:-8],
        "another body": f"{head}.{jwt_part({'sub': 'alice', 'exp': hour})}.{signature}",
        "too long": provider.token(filler="x" * 20_000),
        "no token": "a.b.c",
    }
    for what, token in tokens.items():
        answer = get(url, token)
        assert answer.status_code == 401, what
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert token not in answer.text
    assert get(url, good).status_code == 200
    assert get(url, provider.token({"kid": None})).status_code == 200  # the provider has only one key


def jwt_part(content: dict[str, Any]) -> str:
    from joserfc.util import urlsafe_b64encode

    return urlsafe_b64encode(json.dumps(content).encode()).decode()


def test_new_keys_need_no_restart_and_fetches_are_bounded(
    provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert get(url, provider.token()).status_code == 200
    before = provider.request_count
    for number in range(20):
        assert get(url, provider.token({"kid": f"made up {number}"})).status_code == 401
    assert provider.request_count - before <= 2  # discovery and keys, once within the pause
    provider.key = jwk.ECKey.generate_key("P-256", {"kid": "second", "use": "sig"})
    monkeypatch.setattr(oidc, "PAUSE_SECONDS", 0)
    assert get(url, provider.token()).status_code == 200


def test_a_slow_provider_does_not_delay_tokens_with_a_known_key(
    provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert get(url, provider.token()).status_code == 200
    monkeypatch.setattr(oidc, "PAUSE_SECONDS", 0)
    provider.pause_seconds = 1.5
    slow = threading.Thread(target=get, args=(url, provider.token({"kid": "unknown"})))
    slow.start()
    time.sleep(0.3)
    begun = time.monotonic()
    assert get(url, provider.token()).status_code == 200
    assert time.monotonic() - begun < 1.2
    slow.join()


def test_without_the_providers_keys_its_tokens_are_refused(
    service: Service, provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "PAUSE_SECONDS", 0)
    provider.is_down = True
    answer = get(url, provider.token())
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:lirf:problem:identity-provider-away")
    assert "Retry-After" in answer.headers
    assert Client(url, service.key_of("another")).models() == []
    provider.is_down = False
    assert get(url, provider.token()).status_code == 200
    provider.is_down = True
    monkeypatch.setattr(oidc, "FRESH_SECONDS", 0)
    assert get(url, provider.token()).status_code == 200  # the old keys still work for a while
    monkeypatch.setattr(oidc, "STALE_SECONDS", 0)
    assert get(url, provider.token()).status_code == 503


@begins_with("auk")
def test_a_user_of_the_provider_can_be_one_of_two_persons(service: Service, provider: Provider, url: str) -> None:
    deposit_id = service.deposits[0]
    service.administrator.change_policy("birds", reason="two", needs_second_person=True)
    with pytest.raises(AwaitingApproval) as awaiting:
        Client(url, provider.token(jti="monday")).withdraw([deposit_id], holder="h", reason="r")
    approval = awaiting.value.approval
    with pytest.raises(LirfError, match="made this request"):
        Client(url, provider.token(jti="tuesday")).approve(approval["id"])  # the same person with another token
    assert Client(url, provider.token(sub="bob")).approve(approval["id"])["decided_by"] == "oidc:bob"


def test_a_service_without_a_provider_accepts_no_token(service: Service, provider: Provider) -> None:
    answer = get(service.url, provider.token())
    assert (answer.status_code, provider.request_count) == (401, 0)


@pytest.mark.parametrize(
    "options",
    [{"oidc_issuer": "https://a.org"}, {"oidc_audience": "a"}, {"oidc_issuer": "http://a.org", "oidc_audience": "a"}],
)
def test_settings_must_describe_a_provider_completely_and_safely(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="oidc_issuer"):
        Settings(**options)  # type: ignore[arg-type]


@pytest.fixture
def short(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A token that is accepted for so many seconds or a little less."""
    monkeypatch.setattr(oidc, "LEEWAY_SECONDS", 0)
    return lambda seconds=3, **claims: provider.token(exp=int(time.time()) + seconds, **claims)


@begins_with()
def test_a_stream_ends_with_its_token(service: Service, url: str, short: Callable[..., str]) -> None:
    deposit_id = service.queue(["auk"])
    path = f"{url}/v1/deposits/{deposit_id}/events"
    with HTTP.stream("GET", path, headers={"Authorization": f"Bearer {short()}"}, timeout=20) as stream:
        assert stream.status_code == 200
        with pytest.raises(httpx.TransportError):  # the deposit waits for ever
            stream.read()


@begins_with()
def test_an_upload_and_a_change_that_outlast_their_token_are_not_carried_out(
    service: Service, url: str, short: Callable[..., str]
) -> None:
    content = deposit_zip(["auk"])

    def slowly() -> Iterator[bytes]:
        yield content[:100]
        time.sleep(4)
        yield content[100:]

    path = f"{url}/v1/models/birds/datasets?purpose=deposit"
    with suppress(httpx.TransportError):  # it is answered before the client has sent all
        answer = HTTP.post(path, content=slowly(), headers={"Authorization": f"Bearer {short()}"})
        assert answer.status_code == 401, answer.text
    dataset = service.operator.upload_dataset("birds", service.archive(["auk"]))["id"]
    headers = {"Authorization": service.operator._http.headers["Authorization"]}
    assert len(HTTP.get(f"{url}/v1/models/birds/datasets", headers=headers).json()["items"]) == 1

    with ThreadPoolExecutor(1) as pool, service.database.session() as session, session.begin():
        registry.lock(session, registry.get(session, "birds").id)
        request = pool.submit(
            HTTP.post,
            f"{url}/v1/models/birds/deposits",
            json={"dataset_id": dataset, "reason": "r"},
            headers={"Authorization": f"Bearer {short()}"},
        )
        time.sleep(4)
    assert request.result().status_code == 401
    assert not list(service.auditor.audit_events(action="deposit.requested"))


@begins_with()
def test_a_large_answer_ends_with_its_token(service: Service, url: str, short: Callable[..., str]) -> None:
    with Client(url, service.key_of("first")) as first:  # opens the network
        first.infer("birds", infer_request(1))
    raw = bytes(4096 * 64)
    tensor = {"name": "input", "shape": [4096, 1, 8, 8], "datatype": "UINT8"}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    lines = {
        "Host": "x",
        "Authorization": f"Bearer {short(20)}",
        "Inference-Header-Content-Length": str(len(head)),
        "Content-Length": str(len(head) + len(raw)),
    }
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", httpx.URL(url).port or 80))
        request = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        connection.sendall(f"POST /v2/models/birds/infer HTTP/1.1\r\n{request}\r\n".encode() + head + raw)
        first = connection.recv(1000)
        assert b" 200 OK" in first
        whole = int(first.partition(b"content-length: ")[2].split()[0])
        time.sleep(21)
        received = len(first)
        with suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                received += len(piece)
    assert received < whole // 2
