import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from app.access import service as access
from app.access.service import LAST_USED_STEP, Role
from app.access.tables import ApiKeyRow
from app.main import routes as application_routes
from lirf_client import Client, LirfError
from tests.app.conftest import HTTP, Service

OPEN = {
    "/v2/health/live",
    "/v2/health/ready",
    "/docs",
    "/openapi.json",
    "/static-offline-docs",
    "/docs/oauth2-redirect",
    "/",
}
NEEDS = {
    "POST /v1/models": {Role.OPERATOR},
    "DELETE /v1/models/{name}": {Role.OPERATOR},
    "PUT /v1/models/{name}/weights": {Role.OPERATOR},
    "POST /v1/models/{name}/datasets": {Role.OPERATOR},
    "GET /v1/models/{name}/datasets": {Role.OPERATOR},
    "DELETE /v1/models/{name}/datasets/{dataset_id}": {Role.OPERATOR},
    "POST /v1/models/{name}/deposits": {Role.OPERATOR},
    "POST /v1/models/{name}/base": set(),
    "POST /v1/models/{name}/rebases": {Role.OPERATOR},
    "POST /v1/rebases/{rebase_id}/cancel": {Role.OPERATOR},
    "POST /v1/models/{name}/hardenings": {Role.OPERATOR},
    "POST /v1/hardenings/{hardening_id}/cancel": {Role.OPERATOR},
    "POST /v1/models/{name}/measurements": {Role.OPERATOR, Role.AUDITOR},
    "POST /v1/measurements/{measurement_id}/cancel": {Role.OPERATOR, Role.AUDITOR},
    "POST /v1/deposits/{deposit_id}/cancel": {Role.OPERATOR},
    "POST /v1/deposits/{deposit_id}/evidence": {Role.OPERATOR, Role.AUDITOR},
    "POST /v1/evidence/{evidence_id}/cancel": {Role.OPERATOR, Role.AUDITOR},
    "POST /v1/deposits/{deposit_id}/purge": set(),
    "POST /v1/deposits/{deposit_id}/restoration": {Role.CUSTODIAN},
    "DELETE /v1/deposits/{deposit_id}/restoration": {Role.CUSTODIAN},
    "POST /v1/withdrawals": {Role.CUSTODIAN},
    "DELETE /v1/withdrawals/{withdrawal_id}": {Role.CUSTODIAN},
    "POST /v1/withdrawals/{withdrawal_id}/renewal": {Role.CUSTODIAN},
    "POST /v1/withdrawals/{withdrawal_id}/token": {Role.CUSTODIAN},
    "PUT /v1/models/{name}/policy": set(),
    "POST /v1/approvals/{approval_id}/approve": {Role.OPERATOR, Role.CUSTODIAN},
    "POST /v1/approvals/{approval_id}/refuse": {Role.OPERATOR, Role.CUSTODIAN},
    "GET /v1/audit/events": {Role.AUDITOR},
    "GET /v1/audit/events/export": {Role.AUDITOR},
    "GET /v1/audit/head": {Role.AUDITOR},
    "GET /v1/audit/verification": {Role.AUDITOR},
    "POST /v1/audit/verification": {Role.AUDITOR},
    "POST /v1/keys": set(),
    "GET /v1/keys": set(),
    "DELETE /v1/keys/{key_id}": set(),
}


def routes(service: Service) -> Iterator[tuple[str, str]]:
    """Every method and path of the application, from its OpenAPI description."""
    paths = HTTP.get(f"{service.url}/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method in methods:
            yield method.upper(), path


def test_a_key_name_must_not_look_like_an_identity_providers_user(service: Service) -> None:
    with pytest.raises(LirfError, match="identity provider"):
        service.administrator.create_key("oidc:alice", [])


def test_a_wrong_method_is_answered_with_the_allowed_ones(service: Service) -> None:
    for path, methods in {
        "/v1/models": "GET, POST",
        "/v1/models/x": "DELETE, GET",
        "/openapi.json": "GET, HEAD",
    }.items():
        answer = HTTP.request("TRACE", service.url + path)
        assert answer.status_code == 405
        assert set(answer.headers["Allow"].split(", ")) == set(methods.split(", ")), path


def test_the_openapi_description_has_every_route() -> None:
    app = application_routes()

    def paths(routes: Iterable[Any]) -> Iterator[str]:
        for route in routes:
            if (included := getattr(route, "original_router", None)) is not None:
                yield from paths(included.routes)
            elif hasattr(route, "path"):
                yield route.path

    console = {path for path in paths(app.routes) if path.startswith("/console")}  # test_console.py covers its roles
    api = set(paths(app.routes)) - console
    assert "/v1/models/{name}/weights" in api
    assert api <= set(app.openapi()["paths"]) | OPEN


def test_no_route_but_health_answers_without_a_key(service: Service) -> None:
    seen = set()
    for method, path in routes(service):
        url = service.url + re.sub(r"\{.*?\}", "x", path)
        for headers in ({}, {"Authorization": "Bearer lirf_0123456789ab_wrong"}, {"Authorization": "Basic eDp5"}):
            answer = HTTP.request(method, url, headers=headers)
            if path in OPEN:
                assert answer.status_code == 200
            else:
                assert answer.status_code == 401, (method, path)
                assert answer.headers["content-type"] == "application/problem+json"
        seen.add(f"{method} {path}")
    assert NEEDS.keys() <= seen
    assert len(seen) > len(NEEDS)


@pytest.mark.parametrize("role", [None, *Role])
def test_each_role_may_use_only_its_own_routes(service: Service, role: Role | None) -> None:
    headers = {"Authorization": f"Bearer {service.key_of('k', *([role] if role else []))}"}
    for method, path in routes(service):
        url = service.url + re.sub(r"\{.*?\}", "x", path)
        status = HTTP.request(method, url, headers=headers).status_code
        needed = NEEDS.get(f"{method} {path}")
        is_allowed = needed is None or role == Role.ADMINISTRATOR or role in needed
        assert (status == 403) is not is_allowed, (method, path, status)
        assert status != 401


def test_a_key_is_shown_once_listed_without_its_secret_and_refused_after_revocation(service: Service) -> None:
    new = service.administrator.create_key("team", ["operator"])
    listed = service.administrator.keys()
    assert new["key"].startswith(f"lirf_{new['prefix']}_")
    assert new["key"] not in str(listed)
    assert new["id"] in {key["id"] for key in listed}
    headers = {"Authorization": f"Bearer {new['key']}"}
    assert HTTP.get(f"{service.url}/v1/models", headers=headers).status_code == 200
    service.administrator.revoke_key(new["id"])
    assert HTTP.get(f"{service.url}/v1/models", headers=headers).status_code == 401
    with pytest.raises(LirfError, match="There is no API key"):
        service.administrator.revoke_key(new["id"])


def test_an_expired_key_is_refused(service: Service) -> None:
    new = service.administrator.create_key("guest", [], expires_in_seconds=2)
    headers = {"Authorization": f"Bearer {new['key']}"}
    assert HTTP.get(f"{service.url}/v1/models", headers=headers).status_code == 200
    ends = datetime.fromisoformat(new["expires_at"])
    time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 0.05)
    refused = HTTP.get(f"{service.url}/v1/models", headers=headers)
    assert refused.status_code == 401
    wrong = HTTP.get(f"{service.url}/v1/models", headers={"Authorization": "Bearer lirf_wrong_key"})
    assert refused.content == wrong.content


def test_an_expired_key_stays_expired_if_the_clock_goes_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    by_use, by_reconciler = (service.administrator.create_key(name, [], expires_in_seconds=3600) for name in "ab")
    other = service.administrator.create_key("c", [], expires_in_seconds=7200)

    def status(key: dict[str, Any]) -> int:
        headers = {"Authorization": f"Bearer {key['key']}"}
        return HTTP.get(f"{service.url}/v1/models", headers=headers).status_code

    with monkeypatch.context() as later:
        later.setattr(access, "now", lambda: datetime.now(UTC) + timedelta(seconds=3601))
        assert [status(by_use), status(other)] == [401, 200]
        with service.database.session() as session:
            assert access.end_expired(session) == 1
    assert [status(by_use), status(by_reconciler), status(other)] == [401, 401, 200]
    events = service.auditor.audit_events(action="key.expired")
    assert {event["subject"] for event in events} == {by_use["id"], by_reconciler["id"]}
    service.administrator.create_key("a", [])  # its name is free


@pytest.mark.parametrize("models", [None, ["birds"]])
def test_the_last_administrator_key_for_all_models_cannot_be_revoked(
    service: Service, models: list[str] | None
) -> None:
    every = service.administrator.keys()
    [own] = [key["id"] for key in every if key["roles"] == ["administrator"]]
    spare = service.administrator.create_key("spare", ["administrator"], models=models, expires_in_seconds=3600)
    for key_id in [key["id"] for key in every if key["id"] != own]:
        service.administrator.revoke_key(key_id)
    with pytest.raises(LirfError) as refused:
        service.administrator.revoke_key(own)
    assert refused.value.type == "urn:lirf:problem:last-administrator"
    assert ("that does not expire" in str(refused.value)) == (models is None)
    service.administrator.revoke_key(spare["id"])
    second = service.administrator.create_key("second", ["administrator"])
    with ThreadPoolExecutor(2) as pool:  # each revokes the other: one of them stays
        clients = (service.administrator, second["id"]), (Client(service.url, second["key"]), own)
        outcomes = list(pool.map(lambda pair: _is_revoked(*pair), clients))
    assert sorted(outcomes) == [False, True]


def _is_revoked(client: Client, key_id: str) -> bool:
    try:
        client.revoke_key(key_id)
    except LirfError:
        return False
    return True


def test_a_key_must_not_expire_in_the_past(service: Service) -> None:
    body = {"name": "late", "roles": [], "expires_at": "2020-01-01T00:00:00Z"}
    with pytest.raises(LirfError, match="Give a later time"):
        service.administrator._call("POST", "/v1/keys", json=body)


def test_a_key_shows_when_it_was_last_used(service: Service) -> None:
    def last_used(key_id: str) -> str | None:
        every_key = service.administrator.keys
        (key,) = (key for key in every_key() if key["id"] == key_id)
        used_at: str | None = key["last_used_at"]
        return used_at

    key = service.administrator.create_key("team", [])
    assert last_used(key["id"]) is None
    headers = {"Authorization": f"Bearer {key['key']}"}
    HTTP.get(f"{service.url}/v1/models", headers=headers)
    first = last_used(key["id"])
    assert first
    HTTP.get(f"{service.url}/v1/models", headers=headers)
    assert last_used(key["id"]) == first  # recorded once a minute
    with service.database.session() as session, session.begin():
        a_minute_ago = datetime.now(UTC) - LAST_USED_STEP - timedelta(seconds=1)
        session.execute(sa.update(ApiKeyRow).values(last_used_at=a_minute_ago))
    HTTP.get(f"{service.url}/v1/models", headers=headers)
    assert (last_used(key["id"]) or "") > first


def test_keys_that_are_looked_up_together_are_not_confused(service: Service) -> None:
    """Keys of all kinds arrive together, many times each; each gets its own answer."""
    expected_status = {
        service.key_of("administrator", Role.ADMINISTRATOR): 200,
        service.key_of("auditor", Role.AUDITOR): 403,
        service.key_of("nobody"): 403,
        "lirf_no_such": 401,
        "": 401,
    }

    def ask(key: str) -> tuple[int, int]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return expected_status[key], HTTP.get(f"{service.url}/v1/keys", headers=headers).status_code

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, [*expected_status] * 20))
    assert [expected for expected, _ in answers] == [status for _, status in answers]


def test_a_read_only_database_still_lets_readers_in(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("the disk is full"))

    monkeypatch.setattr(access, "record_use", fails)
    assert service.reader.models() == []


def test_secrets_are_not_in_the_database(service: Service) -> None:
    key = service.key_of("secretive", Role.AUDITOR)
    secret = key.split("_", 2)[2]
    from migrations.tables import metadata

    with service.database.engine.connect() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(sa.select(table)):
                assert secret not in str(row)
