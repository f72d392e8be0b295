"""Answers to too many requests, and while the database is down, say when to try again."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR
from app.api.rate_limit import counted_address
from app.base.database import Database
from app.base.settings import Settings
from app.registry import service as registry
from tests.app.conftest import HTTP, Service, started
from tests.e2e.installation import REDIS

BROKERS = [None, *([REDIS] if REDIS else [])]


@pytest.mark.parametrize("broker", BROKERS, ids=lambda broker: "redis" if broker else "memory")
def test_a_key_over_its_limit_waits_and_others_do_not(
    settings: Settings, database: Database, broker: str | None
) -> None:
    settings.rate_limit, settings.broker_url = "3/hour", broker
    with database.session() as session:
        first, second = (access.create_key(session, LOCAL_ADMINISTRATOR, name, [])[1] for name in ("a", "b"))
    with started(settings) as (url, _):

        def get(key: str) -> httpx.Response:
            return HTTP.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})

        assert [get(first).status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = get(first)
        assert 3000 < int(refused.headers["Retry-After"]) <= 3600
        assert refused.json()["type"] == "urn:lirf:problem:too-many-requests"
        assert get(second).status_code == 200
        assert HTTP.get(f"{url}/v2/health/live").status_code == 200


def test_no_request_is_refused_while_redis_is_down(settings: Settings, database: Database) -> None:
    settings.rate_limit, settings.broker_url = "1/hour", "redis://127.0.0.1:1/0"
    with database.session() as session:
        key = access.create_key(session, LOCAL_ADMINISTRATOR, "a", [])[1]
    with started(settings) as (url, _):
        headers = {"Authorization": f"Bearer {key}"}
        assert [HTTP.get(f"{url}/v1/models", headers=headers).status_code for _ in range(3)] == [200] * 3


def test_an_address_that_guesses_keys_is_slowed_down(settings: Settings, database: Database) -> None:
    settings.rate_limit = "5/hour"
    with database.session() as session:
        key = access.create_key(session, LOCAL_ADMINISTRATOR, "a", [])[1]
    with started(settings) as (url, _):
        guesses = [
            HTTP.get(f"{url}/v1/models", headers={"Authorization": f"Bearer lirf_{n}"}).status_code for n in range(7)
        ]
        assert guesses == [401] * 5 + [429] * 2
        assert HTTP.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_only_a_trusted_proxy_may_say_whose_address_it_is(settings: Settings, database: Database) -> None:
    settings.rate_limit = "2/hour"

    def guesses(url: str, addresses: list[str]) -> list[int]:
        headers = ({"X-Forwarded-For": address, "Authorization": "Bearer lirf_x"} for address in addresses)
        return [HTTP.get(f"{url}/v1/models", headers=each).status_code for each in headers]

    with started(settings) as (url, _):  # a client that makes up an address for each request
        assert guesses(url, ["10.1.1.1", "10.1.1.2", "10.1.1.3", "10.1.1.4"]) == [401, 401, 429, 429]
    settings.trusted_proxies = ["127.0.0.0/8"]
    with started(settings) as (url, _):  # the last address is the one that the proxy saw
        assert guesses(url, ["1.1.1.1, 10.1.1.1", "2.2.2.2, 10.1.1.1", "3.3.3.3, 10.1.1.1"]) == [401, 401, 429]
        assert guesses(url, ["10.1.1.2", "2001:db8::1", "2001:db8::2", "2001:db8::3"]) == [401, 401, 401, 429]
    with pytest.raises(ValidationError, match="is not an address or a network"):
        Settings(trusted_proxies=["*"])


def test_an_address_is_counted_by_what_its_owner_cannot_change() -> None:
    assert counted_address("2001:db8:0:1:aaaa::1") == counted_address("2001:db8:0:1:bbbb::2") == "2001:db8:0:1::/64"
    assert counted_address("::ffff:10.0.0.1") == counted_address("10.0.0.1") == "10.0.0.1"
    assert counted_address("fe80::1%eth0") == "fe80::/64"
    assert counted_address("unknown") == "unknown"


def test_a_malformed_limit_is_reported_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="is not a rate limit; write it like 600/minute"):
        Settings(state_folder=tmp_path, rate_limit="many")


@pytest.mark.parametrize(
    "error", [lambda: OperationalError("SELECT", {}, Exception("server closed the connection")), PoolTimeout]
)
def test_a_database_that_does_not_answer_gives_503_with_retry_after(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    def broken(*_: object) -> None:
        raise error()

    monkeypatch.setattr(registry, "list_models", broken)
    headers = {"Authorization": f"Bearer {service.key_of('k')}"}
    answer = HTTP.get(f"{service.url}/v1/models", headers=headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json()["type"] == "urn:lirf:problem:database-away"
