"""Real processes: API, worker and reconciler, on the embedded parts and on PostgreSQL and Redis."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR, Role
from app.database import Database
from demo.__main__ import free_port
from lirf_client import Client, Deposit
from tests.app.conftest import POSTGRESQL, own_database

REDIS = os.environ.get("TEST_REDIS_URL")
if REDIS:  # a database for each of pytest-xdist's processes, down from the one that is named
    _address, _, _number = REDIS.rpartition("/")
    REDIS = f"{_address}/{int(_number) - int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))}"


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)


@dataclass
class Installation:
    """Processes that share a database, a broker and a vault."""

    folder: Path
    environment: dict[str, str]
    port: int
    key: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        command = {
            "api": ["uvicorn", "--factory", "app.main:create_app", "--port", str(self.port), "--log-level", "warning"],
            "worker": ["celery", "-A", "worker.celery_app", "worker", "--loglevel", "INFO"],
            "reconciler": ["worker.reconciler"],
        }[name]
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        if name == "api":
            wait_until(self.client().is_ready)

    def kill(self, name: str) -> None:
        """SIGKILL to the process and its children."""
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", self.key)

    def database(self) -> Database:
        return Database(self.environment["LIRF_DATABASE_URL"])

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@contextmanager
def installation(folder: Path, database_url: str, broker_url: str | None) -> Iterator[Installation]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIRF_")} | {
        "LIRF_STATE_FOLDER": str(folder / "state"),
        "LIRF_DATABASE_URL": database_url,
        "LIRF_LEASE_SECONDS": "6",
        "LIRF_RECONCILE_SECONDS": "0.5",
        "LIRF_CHECKPOINT_SECONDS": "0.5",
        "LIRF_DOORBELL_SECONDS": "2",
        "LIRF_DEVICE": "cpu",
    }
    if broker_url:
        environment["LIRF_BROKER_URL"] = broker_url
    database = Database(database_url)
    database.upgrade()
    with database.session() as session:
        _, key = access.create_key(session, LOCAL_ADMINISTRATOR, "administrator", [Role.ADMINISTRATOR])
    database.engine.dispose()
    made = Installation(folder, environment, free_port(), key)
    try:
        yield made
    finally:
        for name in list(made.processes):
            made.kill(name)


@contextmanager
def started(kind: str, folder: Path) -> Iterator[Installation]:
    """An API and a reconciler; tests start and kill workers."""
    if kind == "spread out":
        assert REDIS
        redis.Redis.from_url(REDIS).flushdb()
    database, broker = ("postgresql", REDIS) if kind == "spread out" else ("sqlite", None)
    with own_database(database, folder) as database_url, installation(folder, database_url, broker) as made:
        made.start("reconciler")
        made.start("api")
        yield made


@pytest.fixture(params=["embedded", "spread out"] if REDIS and POSTGRESQL else ["embedded"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """SQLite and a queue in a file; and PostgreSQL with Redis, where there are both."""
    with started(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Installation]:
    with started("embedded", tmp_path) as made:
        yield made


def until_training(lirf: Client, deposit_id: str) -> Deposit:
    for deposit in lirf.follow(deposit_id):
        if deposit["progress"]["phase"] == "training" and deposit["state"] == "running":
            return deposit
    raise AssertionError("the deposit ended before it was seen to train")
