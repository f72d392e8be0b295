"""A service with deposits, in its own folder, and servers as processes."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import safetensors.torch
import torch
from PIL import Image

from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR, Role
from app.base.database import Database
from app.base.settings import Settings
from app.deposits.groups import MadeDeposit
from app.deposits.jobs import JOBS, Result
from app.deposits.losses import NO_BOUND, Loss, Losses
from app.vault.service import Binding
from lirf_client import Client
from lirf_core import artifacts, quantisation
from lirf_core import class_rows as rows
from lirf_core.architectures import ArchitectureSpec, build
from lirf_core.config import DepositConfig
from lirf_core.deposit import MODULE_BUDGET
from lirf_core.network import SplitNetwork, flat_state, freeze
from lirf_core.pruning import example_input, prune
from lirf_core.recover import DepositModule
from migrations import upgrade
from worker.work import Work

SIDE = 32
START_SECONDS = 120


class Server:
    """A context manager: a process that serves at `url` until the block ends."""

    def __init__(self, command: list[str], port: int, health: str, log: Path, **environment: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._health, self._log = health, log
        with log.open("a") as file:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                env=os.environ | environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx.get(f"{self.url}{self._health}", timeout=5).is_success:
                    return self
            except httpx.TransportError:
                pass
            if self._process.poll() is not None or time.monotonic() > end:
                self.__exit__(None, None, None)
                raise RuntimeError(f"The server did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # otherwise LitServe's child processes go on and use a core
        self._process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Installation:
    """The service's database, vault and key. It registers models and makes deposits of one class each.

    Deposits are published in the way a worker does it, with modules that are pruned but not trained: the time of an
    answer does not depend on its content.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(state_folder=folder / "state", device="cpu", _env_file=None)
        database = Database(self.settings.database)
        upgrade(database)
        with database.session() as session:
            _, self.key = access.create_key(session, LOCAL_ADMINISTRATOR, "benchmark", [Role.ADMINISTRATOR])
        self.work = Work(self.settings)

    @contextmanager
    def served(self) -> Iterator[tuple[Server, Client]]:
        port = free_port()
        environment = {"LIRF_STATE_FOLDER": str(self.settings.folder), "LIRF_DEVICE": "cpu"}
        command = [sys.executable, "-m", "app", "serve", "--port", str(port)]
        with (
            Server(command, port, "/v2/health/ready", self.folder / "server.log", **environment) as server,
            Client(server.url, self.key) as client,
        ):
            yield server, client

    def register(self, client: Client, name: str, classes: int, width: float) -> None:
        spec = ArchitectureSpec("resnet18-small", classes=classes, width=width)
        torch.manual_seed(0)
        weights = self.folder / f"{name}.safetensors"
        safetensors.torch.save_file(flat_state(build(spec)), weights)
        channels = [0.5] * 3
        client.register_model(
            name,
            architecture={"name": spec.name, "width": width},
            classes=[class_name(index) for index in range(classes)],
            preprocessing={"height": SIDE, "width": SIDE, "mean": channels, "std": channels},
        )
        client.put_weights(name, weights)
        client.change_policy(  # nothing is trained, so nothing can be measured
            name,
            reason="benchmark",
            hardening="none",
            max_preserved_loss=NO_BOUND,
            max_module_loss=NO_BOUND,
            max_total_loss=NO_BOUND,
        )

    def deposit(self, client: Client, model: str, index: int) -> str:
        archive = self.folder / "images.zip"
        image = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE)).save(image, "PNG")
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr(f"{class_name(index)}/1.png", image.getvalue())
        dataset = client.upload_dataset(model, archive)
        deposit_id = client.request_deposit(model, dataset["id"], reason="benchmark")["id"]
        vault = self.work.vault
        with self.work.database.session() as session:
            job = JOBS.claim(session, vault, self.settings, deposit_id)
            assert job
            belonging = job.network.belonging
            network = job.network.open(vault)
            untrained = untrained_module(network, job.deposited, belonging.upper_digest, job.config)
            module = vault.put(Binding("module", job.model_id, job.id), [artifacts.dump_module(untrained, belonging)])
            target = vault.put(Binding("lower", job.model_id, job.id), [artifacts.dump_lower(network, belonging)])
            kept = rows.take(network, job.preserved)
            kept_rows = vault.put(Binding("rows", job.model_id, job.id), [artifacts.dump_rows(kept, belonging)])
            nothing = Losses([Loss(100.0, 100.0, 0, "proxies")], 0.0)  # the target is the network itself
            made = MadeDeposit(job.id, job.deposited, module, None, None, nothing)
            JOBS.publish(session, vault, job, Result(target, kept_rows, [made], []))
        return deposit_id


def untrained_module(
    network: SplitNetwork, deposited: list[int], upper_digest: str, config: DepositConfig
) -> DepositModule:
    """A module with the size and precision of one that a deposit with this configuration makes."""
    lower = prune(network.lower, config.pruning_rate, example_input(3, (SIDE, SIDE)))
    budget = int(MODULE_BUDGET * sum(tensor.nbytes for tensor in flat_state(network).values()))
    bits = config.module_bits or quantisation.bits_within(lower, budget)
    quantisation.attach(lower, bits)
    own_rows = rows.take(network, deposited)
    module = DepositModule(lower, deposited, upper_digest, grid=quantisation.settle(lower, bits), rows=own_rows)
    freeze(module)
    return module


def class_name(index: int) -> str:
    return f"class {index:04}"
