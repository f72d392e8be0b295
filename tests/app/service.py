"""The service that tests use: uvicorn in a thread on a free port, a client for each role, a worker."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import safetensors.torch
import sqlalchemy as sa
import uvicorn

from app import serving
from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR, KeyNameTaken, Role
from app.base.database import Database
from app.base.settings import Settings
from app.deposits.losses import NO_BOUND
from app.main import create_app
from app.registry.policies import BOUNDS
from app.registry.tables import ModelRow
from lirf_client import Client
from lirf_core.architectures import ArchitectureSpec
from lirf_core.network import flat_state
from tests.app import trained
from tests.app.factories import CLASSES, deposit_zip
from tests.lirf_core.factories import SPEC, network
from tests.shared import made_once
from worker.deposit import work_on
from worker.work import Work

CLIENTS: dict[str, list[Role]] = {str(role): [role] for role in Role} | {"reader": []}


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
    deposits: list[str] = field(default_factory=list)  # ids of those it began with (tests/app/states.py)

    def register(self, name: str = "birds", seed: int = 0) -> None:
        """A model with weights: five classes, 8 x 8 grey images."""
        self.describe(name)
        self.operator.put_weights(name, self.weights(seed))
        allow_every_loss(self.database, name)
        turn_hardening_off(self.database, name)

    def register_trained(self, name: str = "birds") -> None:
        """The same model, but its network knows the birds, and its policy is the default."""
        self.describe(name, trained.SPEC)
        self.operator.put_weights(name, made_once("trained", trained.write) / trained.FILE)
        turn_hardening_off(self.database, name)

    def describe(self, name: str, spec: ArchitectureSpec = SPEC) -> None:
        """The same model, which waits for its weights."""
        preprocessing = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
        architecture = {"name": spec.name, "width": spec.width}
        self.operator.register_model(name, architecture=architecture, classes=CLASSES, preprocessing=preprocessing)

    def weights(self, seed: int = 0, spec: ArchitectureSpec = SPEC) -> Path:
        path = self.settings.folder.parent / f"weights-{seed}.safetensors"
        safetensors.torch.save_file(flat_state(network(seed, spec)), path)
        return path

    def archive(
        self, classes: list[str], each: int = 4, name: str = "images.zip", first: int = 0, shown: str | None = None
    ) -> Path:
        """Images of these classes; the others: see `deposit_zip`."""
        path = self.settings.folder.parent / name
        path.write_bytes(deposit_zip(classes, each, first, shown))
        return path

    def queue(self, images: list[str], model: str = "birds", /, *, each: int = 4, **options: Any) -> str:
        """A queued deposit of these classes; returns its id. each: how many images of each class."""
        dataset = self.operator.upload_dataset(model, self.archive(images, each))
        config = {
            "epochs": 1,
            "batch_size": 4,
            "proxies": 0,  # making four takes longer than the step that draws them
            "lambda_fp": 0.0,
            "augmentation": {"crop_padding": 0, "horizontal_flip": False},
        }
        options = {"reason": "licence ended", **options, "config": {**config, **options.get("config", {})}}
        by: Client = options.pop("by", self.operator)
        return by.request_deposit(model, dataset["id"], **options)["id"]

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


def allow_every_loss(database: Database, model: str) -> None:
    """Deposits of one or two steps cost untrained networks more than any policy allows. No event, no request."""
    with database.session() as session, session.begin():
        no_bounds = dict.fromkeys(BOUNDS, NO_BOUND)
        session.execute(sa.update(ModelRow).where(ModelRow.name == model).values(**no_bounds))


def turn_hardening_off(database: Database, model: str) -> None:
    """Most tests deposit without it, which is faster. No event, no request."""
    with database.session() as session, session.begin():
        session.execute(sa.update(ModelRow).where(ModelRow.name == model).values(hardening="none"))


def create_key(database: Database, name: str, *roles: Role) -> str:
    """A key of a person of its own. If another has the name, the new one's name has a number, too."""
    for number in itertools.count(1):
        with database.session() as session, suppress(KeyNameTaken):
            label = name if number == 1 else f"{name} {number}"
            return access.create_key(session, LOCAL_ADMINISTRATOR, label, list(roles))[1]
    raise AssertionError


@contextmanager
def serving_on(settings: Settings, database: Database, keys: dict[str, str], deposits: list[str]) -> Iterator[Service]:
    """keys: by the names in `CLIENTS`. deposits: ids of those that the database has."""
    with started(settings) as (url, _):
        clients = {name: Client(url, keys[name]) for name in CLIENTS}
        service = Service(url, settings, database, partial(create_key, database), **clients, deposits=deposits)
        yield service
        for client in clients.values():
            client.close()
        if "worker" in vars(service):
            service.worker.database.engine.dispose()
