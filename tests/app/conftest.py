"""A real service for each test: uvicorn on a free port, SQLite and (where TEST_DATABASE_URL is set) PostgreSQL."""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
import sqlalchemy as sa
import uvicorn

from app import serving
from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR, Role
from app.base.database import Database
from app.base.settings import Settings
from app.main import create_app
from lirf_client import Client
from lirf_core.architectures import ArchitectureSpec
from lirf_core.network import flat_state
from migrations import upgrade
from tests.app.factories import CLASSES, deposit_zip
from tests.lirf_core.factories import SPEC, network
from worker.deposit import work_on
from worker.work import Work

POSTGRESQL = os.environ.get("TEST_DATABASE_URL")
HTTP = httpx.Client(timeout=60)  # httpx.get reads the certificates that it trusts for each request: 50 ms
KINDS = ["sqlite", "postgresql"] if POSTGRESQL else ["sqlite"]
# For what has nothing to do with the database: how a request is read, a page written, a number computed.
on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@contextmanager
def own_database(kind: str, folder: Path, template: str | None = None) -> Iterator[str]:
    """The URL of a new database: empty, or a copy of the one at that URL, which nobody uses."""
    if kind == "sqlite":
        file = folder / "test.sqlite3"
        if template:
            shutil.copyfile(sa.make_url(template).database or "", file)
        yield f"sqlite:///{file}"
        return
    assert POSTGRESQL
    name = f"lirf_test_{uuid.uuid4().hex[:12]}"
    server = sa.create_engine(POSTGRESQL, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        like = f" TEMPLATE {sa.make_url(template).database}" if template else ""
        connection.execute(sa.text(f"CREATE DATABASE {name}{like}"))
    try:
        yield sa.make_url(POSTGRESQL).set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """By kind, the URL of a database of the newest schema: migrations take longer than most tests."""
    with ExitStack() as stack:
        urls = {kind: stack.enter_context(own_database(kind, tmp_path_factory.mktemp(kind))) for kind in KINDS}
        for url in urls.values():
            database = Database(url)
            upgrade(database)
            database.engine.dispose()
        yield urls


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path, migrated: dict[str, str]) -> Iterator[str]:
    with own_database(request.param, tmp_path, migrated[request.param]) as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(state_folder=tmp_path / "state", database_url=database_url, device="cpu", _env_file=None)  # type: ignore[call-arg]


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database)
    yield database
    database.engine.dispose()


@dataclass
class Service:
    """The running service and a client for each role."""

    url: str
    settings: Settings
    database: Database
    key_of: Callable[..., str]
    administrator: Client
    operator: Client
    custodian: Client
    auditor: Client
    reader: Client

    def register(self, name: str = "birds", seed: int = 0) -> None:
        """A model with weights: five classes, 8 x 8 grey images."""
        self.describe(name)
        self.operator.put_weights(name, self.weights(seed))

    def describe(self, name: str) -> None:
        """The same model, which waits for its weights."""
        preprocessing = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
        architecture = {"name": SPEC.name, "width": SPEC.width}
        self.operator.register_model(name, architecture=architecture, classes=CLASSES, preprocessing=preprocessing)

    def weights(self, seed: int = 0, spec: ArchitectureSpec = SPEC) -> Path:
        path = self.settings.folder.parent / f"weights-{seed}.safetensors"
        safetensors.torch.save_file(flat_state(network(seed, spec)), path)
        return path

    def archive(self, classes: list[str], each: int = 4, name: str = "images.zip") -> Path:
        path = self.settings.folder.parent / name
        path.write_bytes(deposit_zip(classes, each))
        return path

    def queue(self, images: list[str], model: str = "birds", /, **options: Any) -> str:
        """A queued deposit of these classes; returns its id."""
        dataset = self.operator.upload_dataset(model, self.archive(images))
        config = {
            "epochs": 1,
            "batch_size": 4,
            "proxies": 0,  # making four takes longer than the step that draws them
            "lambda_fp": 0.0,
            "augmentation": {"crop_padding": 0, "horizontal_flip": False},
        }
        options = {"reason": "licence ended", **options, "config": {**config, **options.get("config", {})}}
        return self.operator.request_deposit(model, dataset["id"], **options)["id"]

    @cached_property
    def worker(self) -> Work:
        """A worker in this process. One for all: each has connections of its own, of which a database has 100."""
        return Work(self.settings)

    def work(self, deposit_id: str) -> None:
        """What the worker's task does."""
        work_on(self.worker, deposit_id)

    def deposit(self, images: list[str], model: str = "birds", /, **options: Any) -> str:
        """A finished deposit of these classes; returns its id."""
        deposit_id = self.queue(images, model, **options)
        self.work(deposit_id)
        assert self.operator.deposit(deposit_id)["state"] == "deposited"
        return deposit_id


@contextmanager
def started(settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    """The API in a thread of this process: its URL, and the state that its lifespan made."""
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on", **serving.OPTIONS))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", server.lifespan.state
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def service(settings: Settings, database: Database) -> Iterator[Service]:
    def key_of(name: str, *roles: Role) -> str:
        with database.session() as session:
            return access.create_key(session, LOCAL_ADMINISTRATOR, name, list(roles))[1]

    with started(settings) as (url, _):
        clients = [
            Client(url, key_of(str(role), role))
            for role in (Role.ADMINISTRATOR, Role.OPERATOR, Role.CUSTODIAN, Role.AUDITOR)
        ]
        clients.append(Client(url, key_of("reader")))
        made = Service(url, settings, database, key_of, *clients)
        yield made
        for client in clients:
            client.close()
        if "worker" in vars(made):
            made.worker.database.engine.dispose()
