"""Connections to PostgreSQL, Redis and S3 are refused, cut, delayed and left without an answer, while requests and a
worker go on: what is not answered is told as 503 with Retry-After, what was answered holds, and all is finished in the
end.
"""

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
import pytest
import sqlalchemy as sa
from moto.server import ThreadedMotoServer

from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR, Role
from app.base.database import Database
from app.base.settings import Settings
from app.deposits.jobs import JOBS
from app.vault import maintenance
from app.vault.service import open_vault
from lirf_client import Client
from migrations import upgrade
from tests.app.conftest import POSTGRESQL, Service, own_database, started
from tests.app.factories import deposit_zip, infer_request
from tests.doses import dose
from tests.e2e.installation import REDIS
from tests.e2e.proxy import FaultyProxy, Mode
from worker.deposit import work_on
from worker.work import Work

FAULTS = dose(20, 200)
MODES: tuple[Mode, ...] = ("refused", "silent", "slow", "through")  # each cuts what there is
SLOWEST = 40  # seconds that an answer may take
EXPECTED = {200, 201, 202, 404, 409, 410, 503}


@dataclass
class Told:
    """What clients were answered: for the final state to be held against."""

    deposits: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def installation(kind: str, folder: Path) -> Iterator[tuple[Settings, Settings, FaultyProxy]]:
    """Settings that reach everything straight, those that reach one part by a proxy, and the proxy."""
    state: dict[str, Any] = {"state_folder": folder / "state", "device": "cpu", "lease_seconds": 4, "max_attempts": 500}
    if kind == "postgresql":
        with own_database("postgresql", folder) as url:
            address = sa.make_url(url)
            proxy = FaultyProxy(address.host or "127.0.0.1", address.port or 5432)
            proxied = address.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
            yield settings(**state, database_url=url), settings(**state, database_url=proxied), proxy
            proxy.close()
        return
    if kind == "redis":
        assert REDIS
        there = urlsplit(REDIS)
        proxy = FaultyProxy(there.hostname or "127.0.0.1", there.port or 6379)
        proxied = there._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()
        yield settings(**state, broker_url=REDIS), settings(**state, broker_url=proxied), proxy
        proxy.close()
        return
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    straight = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=straight, region_name="us-east-1").create_bucket(Bucket="vault")
    proxy = FaultyProxy(host, port)
    vault = {"vault_url": "s3://vault/objects"}
    yield (
        settings(**state, **vault, vault_options={"endpoint_url": straight}),
        settings(**state, **vault, vault_options={"endpoint_url": f"http://127.0.0.1:{proxy.port}"}),
        proxy,
    )
    proxy.close()
    server.stop()


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


def ask(
    told: Told, url: str, key: str, method: str, path: str, wish: str | None = None, **options: Any
) -> dict[str, Any]:
    """What is answered, or nothing. wish: what is asked for once, however often it is sent."""
    time.sleep(0.05)
    begun = time.monotonic()
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": wish or str(uuid.uuid4())}
    try:
        answer = httpx.request(method, url + path, headers=headers, timeout=2 * SLOWEST, **options)
    except httpx.HTTPError as error:
        told.wrong.append(f"{method} {path}: {error!r}")
        return {}
    told.statuses.append(answer.status_code)
    took = time.monotonic() - begun
    if (
        answer.status_code not in EXPECTED
        or (answer.status_code == 503 and "Retry-After" not in answer.headers)
        or took > SLOWEST
    ):
        told.wrong.append(f"{method} {path}: {answer.status_code} after {took:.1f} s: {answer.text[:300]}")
    found = dict(answer.json())
    if found.get("type", "").endswith(":idempotent-answer-missing") and found["subject"]:
        return {"id": found["subject"]}  # it was carried out, and the connection was cut before its answer was kept
    return found if answer.is_success else {}


def clients_go_on(told: Told, url: str, key: str, stop: threading.Event) -> None:
    """Deposits a class where none is on the way, asks, withdraws and revokes."""
    config = {"epochs": 1, "batch_size": 4, "augmentation": {"crop_padding": 0, "horizontal_flip": False}}
    for name in ("auk", "dodo", "emu"):
        dataset, deposit = dict[str, Any](), dict[str, Any]()
        uploaded, requested, images = str(uuid.uuid4()), str(uuid.uuid4()), deposit_zip([name])
        while not dataset and not stop.is_set():
            path = "/v1/models/birds/datasets?purpose=deposit"
            dataset = ask(told, url, key, "POST", path, uploaded, content=images)
        while not deposit and not stop.is_set():
            body = {"dataset_id": dataset["id"], "reason": "r", "config": config}
            deposit = ask(told, url, key, "POST", "/v1/models/birds/deposits", requested, json=body)
        if deposit:
            told.deposits.append(deposit["id"])
        while not stop.is_set():
            ask(told, url, key, "POST", "/v2/models/birds/infer", json=infer_request(1))
            evaluation = deposit_zip(["auk", "dodo", "emu"])
            ask(told, url, key, "POST", "/v1/models/birds/datasets?purpose=evaluation", content=evaluation)
            found = ask(told, url, key, "GET", f"/v1/deposits/{deposit['id']}")
            if found.get("state") == "deposited":
                break
        lend = {"deposits": [deposit.get("id", "")], "holder": "h", "reason": "r"}
        lent = ask(told, url, key, "POST", "/v1/withdrawals", json=lend)
        if lent and ask(told, url, key, "DELETE", f"/v1/withdrawals/{lent['id']}"):
            told.revoked.append(lent["id"])


def worker_goes_on(straight: Settings, proxied: Settings, stop: threading.Event, log: list[str]) -> None:
    """A worker by the proxy; a reconciler beside it that takes back what the worker had to leave."""
    vault = open_vault(straight)
    work, database = Work(proxied), Database(straight.database)
    while not stop.is_set():
        with database.session() as session:
            queued = JOBS.recover(session, vault, straight)
        with database.reading() as session:
            queued += session.scalars(sa.text("SELECT id FROM deposits WHERE state = 'queued' ORDER BY id")).all()
        for deposit_id in dict.fromkeys(queued):
            try:
                work_on(work, deposit_id)
            except Exception as error:  # a task that fails: its lease runs out
                log.append(type(error).__name__)
        stop.wait(0.2)
    database.engine.dispose()
    work.database.engine.dispose()


@pytest.mark.attack
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["s3", *(["postgresql"] if POSTGRESQL else []), *(["redis"] if REDIS else [])])
def test_faulty_connections_cost_time_and_nothing_else(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with installation(kind, tmp_path) as (straight, proxied, proxy):
        database = Database(straight.database)
        upgrade(database)
        with database.session() as session:
            key = access.create_key(session, LOCAL_ADMINISTRATOR, "client", [Role.ADMINISTRATOR])[1]
        with started(proxied) as (url, _):
            client = Client(url, key)
            Service(url, proxied, database, lambda *_: key, *[client] * 5).register()
            told, stop, errors = Told(), threading.Event(), list[str]()
            going = [
                threading.Thread(target=clients_go_on, args=(told, url, key, stop)),
                threading.Thread(target=worker_goes_on, args=(straight, proxied, stop, errors)),
            ]
            for one in going:
                one.start()
            chance = random.Random(0)
            for _ in range(FAULTS):
                time.sleep(chance.uniform(0.1, 0.8))
                proxy.become(chance.choice(MODES))
                time.sleep(chance.uniform(0.1, 1.5))
                proxy.become("through")
            going[0].join(timeout=120)  # what was begun is finished
            assert not going[0].is_alive(), told
            stop.set()
            for one in going:
                one.join()

            assert told.wrong == []
            # Faults do reach it, at once; nobody waits for the broker.
            proxy.become("refused")
            found = ask(
                told, url, key, "POST", "/v1/models/birds/datasets?purpose=deposit", content=deposit_zip(["kiwi"])
            )
            assert (told.statuses[-1], told.wrong) == (201 if kind == "redis" else 503, []), found
            proxy.become("through")
            assert 503 not in told.statuses or kind != "redis"
            assert len(told.deposits) == 3
            assert {client.deposit(one)["state"] for one in told.deposits} == {"deposited"}
            states = {one["id"]: one["state"] for one in client.withdrawals("birds")}
            assert {states[one] for one in told.revoked} <= {"revoked"}
            assert client.verify_audit()["is_intact"]
            assert client.infer("birds", infer_request(1))["parameters"]["revision"] == 3
        assert not [one for one in maintenance.check(database, open_vault(straight)) if one.is_loss]
        database.engine.dispose()
