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

from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR, Role
from app.database import Database
from demo.__main__ import free_port
from lirf_client import Client, Deposit
from tests.app.conftest import database_url as database_url

REDIS = os.environ.get("TEST_REDIS_URL")


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

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@contextmanager
def installation(folder: Path, database_url: str, broker_url: str | None) -> Iterator[Installation]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIRF_")} | {
        "LIRF_STATE_FOLDER": str(folder / "state"),
        "LIRF_DATABASE_URL": database_url,
        "LIRF_LEASE_SECONDS": "6",
        "LIRF_RECONCILE_SECONDS": "0.5",
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


@pytest.fixture(params=["embedded", "redis"] if REDIS else ["embedded"])
def broker_url(request: pytest.FixtureRequest) -> str | None:
    """None for the broker in an SQLite file; else a Redis, emptied."""
    if request.param == "embedded":
        return None
    import redis

    assert REDIS
    redis.Redis.from_url(REDIS).flushdb()
    return REDIS


@pytest.fixture
def running(tmp_path: Path, database_url: str, broker_url: str | None) -> Iterator[Installation]:
    """An API and a reconciler; tests start and kill workers."""
    with installation(tmp_path, database_url, broker_url) as made:
        made.start("api")
        made.start("reconciler")
        yield made


def until_training(lirf: Client, deposit_id: str) -> Deposit:
    for deposit in lirf.follow(deposit_id):
        if deposit["progress"]["phase"] == "training" and deposit["state"] == "running":
            return deposit
    raise AssertionError("the deposit ended before it was seen to train")
