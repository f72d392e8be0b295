"""Connections to PostgreSQL, Redis and S3 are refused, cut, delayed or left silent while clients and a worker run.

A request that the service cannot carry out gets a 503 with Retry-After. What was answered holds. In the end, everything
is finished.
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
MODES: tuple[Mode, ...] = ("refused", "silent", "slow", "through")  # each change cuts the open connections
SLOWEST = 40  # seconds that an answer may take
EXPECTED = {200, 201, 202, 404, 409, 410, 503}


@dataclass
class Answers:
    """What the clients were answered, to be compared with the final state."""

    deposits: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@contextmanager
def installation(kind: str, folder: Path) -> Iterator[tuple[Settings, Settings, FaultyProxy]]:
    """Settings that reach everything directly, settings that reach one system through a proxy, and the proxy."""
    state: dict[str, Any] = {"state_folder": folder / "state", "device": "cpu", "lease_seconds": 4, "max_attempts": 500}
    if kind == "postgresql":
        with own_database("postgresql", folder) as url:
            database = sa.make_url(url)
            proxy = FaultyProxy(database.host or "127.0.0.1", database.port or 5432)
            proxied = database.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
            yield settings(**state, database_url=url), settings(**state, database_url=proxied), proxy
            proxy.close()
        return
    if kind == "redis":
        assert REDIS
        address = urlsplit(REDIS)
        proxy = FaultyProxy(address.hostname or "127.0.0.1", address.port or 6379)
        proxied = address._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()
        yield settings(**state, broker_url=REDIS), settings(**state, broker_url=proxied), proxy
        proxy.close()
        return
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    direct = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=direct, region_name="us-east-1").create_bucket(Bucket="vault")
    proxy = FaultyProxy(host, port)
    vault = {"vault_url": "s3://vault/objects"}
    yield (
        settings(**state, **vault, vault_options={"endpoint_url": direct}),
        settings(**state, **vault, vault_options={"endpoint_url": f"http://127.0.0.1:{proxy.port}"}),
        proxy,
    )
    proxy.close()
    server.stop()


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def send(
    answers: Answers, url: str, key: str, method: str, path: str, idempotency_key: str | None = None, **options: Any
) -> dict[str, Any]:
    """The body of a successful answer, or an empty one."""
    time.sleep(0.05)
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    try:
        answer = httpx.request(method, url + path, headers=headers, timeout=2 * SLOWEST, **options)
    except httpx.HTTPError as error:
        answers.faults.append(f"{method} {path}: {error!r}")
        return {}
    answers.statuses.append(answer.status_code)
    took = time.monotonic() - began
    if (
        answer.status_code not in EXPECTED
        or (answer.status_code == 503 and "Retry-After" not in answer.headers)
        or took > SLOWEST
    ):
        answers.faults.append(f"{method} {path}: {answer.status_code} after {took:.1f} s: {answer.text[:300]}")
    body = dict(answer.json())
    if body.get("type", "").endswith(":idempotent-answer-missing") and body["subject"]:
        return {"id": body["subject"]}  # it was carried out, but the connection was cut before the answer was stored
    return body if answer.is_success else {}


def run_client(answers: Answers, url: str, key: str, stop: threading.Event) -> None:
    """Deposit one class after the other. Meanwhile send images; then withdraw the class and revoke that."""
    config = {"epochs": 1, "batch_size": 4, "augmentation": {"crop_padding": 0, "horizontal_flip": False}}
    for name in ("auk", "dodo", "emu"):
        dataset, deposit = dict[str, Any](), dict[str, Any]()
        upload_key, deposit_key, images = str(uuid.uuid4()), str(uuid.uuid4()), deposit_zip([name])
        while not dataset and not stop.is_set():
            path = "/v1/models/birds/datasets?purpose=deposit"
            dataset = send(answers, url, key, "POST", path, upload_key, content=images)
        while not deposit and not stop.is_set():
            body = {"dataset_id": dataset["id"], "reason": "r", "config": config}
            deposit = send(answers, url, key, "POST", "/v1/models/birds/deposits", deposit_key, json=body)
        if deposit:
            answers.deposits.append(deposit["id"])
        while not stop.is_set():
            send(answers, url, key, "POST", "/v2/models/birds/infer", json=infer_request(1))
            evaluation = deposit_zip(["auk", "dodo", "emu"])
            send(answers, url, key, "POST", "/v1/models/birds/datasets?purpose=evaluation", content=evaluation)
            if send(answers, url, key, "GET", f"/v1/deposits/{deposit['id']}").get("state") == "deposited":
                break
        body = {"deposits": [deposit.get("id", "")], "holder": "h", "reason": "r"}
        withdrawal = send(answers, url, key, "POST", "/v1/withdrawals", json=body)
        if withdrawal and send(answers, url, key, "DELETE", f"/v1/withdrawals/{withdrawal['id']}"):
            answers.revoked.append(withdrawal["id"])


def run_worker(direct: Settings, proxied: Settings, stop: threading.Event, log: list[str]) -> None:
    """Run a worker through the proxy, and a reconciler that requeues the deposits that the worker had to leave."""
    vault = open_vault(direct)
    work, database = Work(proxied), Database(direct.database)
    while not stop.is_set():
        with database.session() as session:
            queued = JOBS.recover(session, vault, direct)
        with database.reading() as session:
            queued += session.scalars(sa.text("SELECT id FROM deposits WHERE state = 'queued' ORDER BY id")).all()
        for deposit_id in dict.fromkeys(queued):
            try:
                work_on(work, deposit_id)
            except Exception as error:  # a failed task, whose lease will end
                log.append(type(error).__name__)
        stop.wait(0.2)
    database.engine.dispose()
    work.database.engine.dispose()


@pytest.mark.attack
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["s3", *(["postgresql"] if POSTGRESQL else []), *(["redis"] if REDIS else [])])
def test_faulty_connections_cost_only_time(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with installation(kind, tmp_path) as (direct, proxied, proxy):
        database = Database(direct.database)
        upgrade(database)
        with database.session() as session:
            key = access.create_key(session, LOCAL_ADMINISTRATOR, "client", [Role.ADMINISTRATOR])[1]
        with started(proxied) as (url, _):
            client = Client(url, key)
            Service(url, proxied, database, lambda *_: key, *[client] * 5).register()
            answers, stop, errors = Answers(), threading.Event(), list[str]()
            client_thread = threading.Thread(target=run_client, args=(answers, url, key, stop))
            worker_thread = threading.Thread(target=run_worker, args=(direct, proxied, stop, errors))
            client_thread.start()
            worker_thread.start()
            chance = random.Random(0)
            for _ in range(FAULTS):
                time.sleep(chance.uniform(0.1, 0.8))
                proxy.become(chance.choice(MODES))
                time.sleep(chance.uniform(0.1, 1.5))
                proxy.become("through")
            client_thread.join(timeout=120)  # the client finishes what it began
            assert not client_thread.is_alive(), answers
            stop.set()
            worker_thread.join()

            assert answers.faults == []
            # A fault does reach the service at once, except for the broker, which no request waits for.
            proxy.become("refused")
            path = "/v1/models/birds/datasets?purpose=deposit"
            body = send(answers, url, key, "POST", path, content=deposit_zip(["kiwi"]))
            assert (answers.statuses[-1], answers.faults) == (201 if kind == "redis" else 503, []), body
            proxy.become("through")
            assert 503 not in answers.statuses or kind != "redis"
            assert len(answers.deposits) == 3
            assert {client.deposit(deposit_id)["state"] for deposit_id in answers.deposits} == {"deposited"}
            states = {withdrawal["id"]: withdrawal["state"] for withdrawal in client.withdrawals("birds")}
            assert {states[withdrawal_id] for withdrawal_id in answers.revoked} <= {"revoked"}
            assert client.verify_audit()["is_intact"]
            assert client.infer("birds", infer_request(1))["parameters"]["revision"] == 3
        assert not [finding for finding in maintenance.check(database, open_vault(direct)) if finding.is_loss]
        database.engine.dispose()
