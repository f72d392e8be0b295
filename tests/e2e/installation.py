"""An API, a reconciler and workers, as processes, on SQLite, or on PostgreSQL with Redis."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import redis

from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR, Role
from app.base.database import Database
from demo.__main__ import free_port
from lirf_client import Client, Deposit
from migrations import upgrade
from tests.app.states import migrated
from tests.databases import POSTGRESQL, own_database
from tests.e2e import canaries
from tests.e2e.processes import Command, Fork, Running, serve, wait_until, work
from worker import reconciler

REDIS = os.environ.get("TEST_REDIS_URL")
if REDIS:  # a Redis database for each of pytest-xdist's processes, counted down from the given one
    _address, _, _number = REDIS.rpartition("/")
    REDIS = f"{_address}/{int(_number) - int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))}"

Kind = Literal["embedded", "spread-out"]
KINDS: list[Kind] = ["embedded", "spread-out"] if REDIS and POSTGRESQL else ["embedded"]
CELERY = ["worker"]


@dataclass
class Installation:
    """Processes that share a database, a broker and a vault. has_celery: its workers are Celery's, not forks."""

    folder: Path
    environment: dict[str, str]
    port: int
    key: str
    has_celery: bool = True
    processes: dict[str, Running] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """name: api, reconciler, or any other name for a worker."""
        log = self.folder / f"{name}.log"
        if name == "api":
            self.processes[name] = Fork(serve, [self.port], self.environment, log)
            wait_until(self.client().is_ready)
        elif name == "reconciler":
            self.processes[name] = Fork(reconciler.main, [], self.environment, log)
        elif self.has_celery:
            self.processes[name] = Command(CELERY, self.environment, log)
        else:
            self.processes[name] = Fork(work, [], self.environment, log)

    def signal(self, name: str, number: int) -> None:
        self.processes[name].signal(number)

    def kill(self, name: str) -> None:
        """SIGKILL to the process and its children."""
        self.signal(name, signal.SIGKILL)
        self.processes.pop(name).wait()

    def fork_server(self, worker: str) -> int:
        """The id of the process that a worker's jobs are forks of."""
        (server,) = _children(self.processes[worker].pid, "forkserver")
        return server

    def jobs(self, worker: str) -> set[int]:
        """The ids of the processes in which a worker's jobs run, also while they wait for one."""
        return _children(self.fork_server(worker), "")

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", self.key)

    def database(self) -> Database:
        return Database(self.environment["LIRF_DATABASE_URL"])

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


def _children(pid: int, command: str) -> set[int]:
    """The ids of the child processes with such a command line."""
    output = subprocess.run(
        ["pgrep", "-f", "-P", str(pid), command or "."], capture_output=True, text=True, check=False
    )
    return set(map(int, output.stdout.split()))


@contextmanager
def installation(
    folder: Path, database_url: str, broker_url: str | None, *, has_celery: bool = True
) -> Iterator[Installation]:
    """An installation without processes. At the end, fails if the service has written a secret anywhere."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIRF_")} | {
        "LIRF_STATE_FOLDER": str(folder / "state"),
        "LIRF_DATABASE_URL": database_url,
        "LIRF_LEASE_SECONDS": "10" if has_celery else "2",
        "LIRF_RECONCILE_SECONDS": "0.5",
        "LIRF_CHECKPOINT_SECONDS": "0.5",
        "LIRF_DOORBELL_SECONDS": "2",
        "LIRF_DEVICE": "cpu",
        **canaries.temporary_folder(folder),
    }
    if broker_url:
        environment["LIRF_BROKER_URL"] = broker_url
    database = Database(database_url)
    upgrade(database)
    with database.session() as session:
        _, key = access.create_key(session, LOCAL_ADMINISTRATOR, "administrator", [Role.ADMINISTRATOR])
    database.engine.dispose()
    running = Installation(folder, environment, free_port(), key, has_celery)
    try:
        yield running
        assert canaries.leaks(folder, environment, canaries.secrets_of(environment, key)) == []
    finally:
        for name in list(running.processes):
            running.kill(name)


@contextmanager
def started(kind: Kind, folder: Path, *, has_celery: bool = True) -> Iterator[Installation]:
    """An installation with an API and a reconciler. Tests start and kill the workers."""
    if kind == "spread-out":
        assert REDIS
        redis.Redis.from_url(REDIS).flushdb()
    database, broker = ("postgresql", REDIS) if kind == "spread-out" else ("sqlite", None)
    with (
        own_database(database, folder, migrated(database)) as database_url,
        installation(folder, database_url, broker, has_celery=has_celery) as running,
    ):
        running.start("reconciler")
        running.start("api")
        yield running


def until_training(lirf: Client, deposit_id: str) -> Deposit:
    """Wait until the deposit is training."""
    for deposit in lirf.follow(deposit_id):
        if deposit["progress"]["phase"] == "training" and deposit["state"] == "running":
            return deposit
    raise AssertionError("the deposit ended before it was training")
