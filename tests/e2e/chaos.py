"""The chaos test: `make chaos N=200`, or `python -m tests.e2e --help`.

Clients request deposits and record the answers, while processes are killed and stopped, and messages are lost and
duplicated. At the end, the service must have done what it answered. The last line is a summary; exit code 1 means that
there were violations.
"""

import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import httpx
import redis
import sqlalchemy as sa
import typer
from rich.console import Console

from app.base.settings import Settings
from app.deposits.tables import DepositRow, State
from app.jobs.doorbell import DEPOSIT, celery_app
from app.vault import maintenance
from app.vault.service import open_vault
from tests.app.conftest import Service
from tests.app.factories import CLASSES, deposit_zip, infer_request
from tests.app.service import allow_every_loss
from tests.e2e.installation import KINDS, Installation, Kind, started
from tests.e2e.processes import Fork, cli
from tests.lirf_core.factories import SPEC

WORKERS = ["worker", "worker 2"]
MODEL_CLASSES = CLASSES[:3]  # that each model deposits, one after the other; two are preserved
CONFIG = {
    "epochs": 6,
    "batch_size": 2,
    "proxies": 8,
    "proxy_batch": 2,
    "augmentation": {"crop_padding": 0, "horizontal_flip": False},
}
PREPROCESSING = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
DEPOSIT_SECONDS = 20.0  # for each unfinished deposit
RUNNING_SECONDS = 3.0  # that an attack waits for a deposit to run
RECOVERY_SECONDS = 60.0  # for the lease, the reconciler's pause, and a worker that imports torch on a busy machine


@dataclass
class Report:
    """What the test did to the service, and what the service did wrong.

    accepted: ids of deposits, by model and class. interrupted: how many deposits were started more than once, because
    an attack hit them while they ran. repeated: requests that were sent again with the same idempotency key.
    """

    accepted: dict[tuple[str, str], str] = field(default_factory=dict)
    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    requests: int = 0
    interrupted: int = 0
    seconds: float = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        others = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"chaos: {len(self.accepted)} deposits ({self.interrupted} interrupted), {self.kills} kills ({others}), "
            f"{self.requests} requests, {self.repeated} of them repeated with their key, {self.seconds:.0f} s, "
            f"{len(self.violations)} violations"
        )


class Chaos:
    """One installation, its clients and its attacker."""

    def __init__(
        self, running: Installation, deposits: int, seed: int, kills: int = 0, pause: tuple[float, float] = (3, 20)
    ) -> None:
        """kills: how many at least, if any, spread over the deposits. pause: seconds between attacks, from and to."""
        self.running, self.deposits, self.report = running, deposits, Report()
        self._kills, self._pause = kills, pause
        self._allowed: float = 0 if kills else deposits
        self._random, self._is_over = random.Random(seed), threading.Event()
        self._database = running.database()
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{running.port}", headers={"Authorization": f"Bearer {running.key}"}, timeout=30
        )

    def run(self) -> Report:
        began = time.monotonic()
        quick = {"LIRF_CHECKPOINT_SECONDS": "0.2", "OMP_NUM_THREADS": "1"}
        self.running.environment |= {"LIRF_MAX_ATTEMPTS": "1000", **quick}
        self.running.kill("reconciler")  # it has the old settings
        for name in ("reconciler", *WORKERS):
            self.running.start(name)
        clients = [threading.Thread(target=self._request, args=(number,)) for number in range(2)]
        for client in clients:
            client.start()
        attacker = threading.Thread(target=self._attack)
        attacker.start()
        while any(client.is_alive() for client in clients) or (
            not self._is_over.is_set() and (self._unfinished() or self.report.kills < self._kills)
        ):
            time.sleep(0.2)
        self._is_over.set()
        attacker.join()
        for client in clients:
            client.join()
        end = time.monotonic() + RECOVERY_SECONDS + DEPOSIT_SECONDS * self._unfinished()
        while (left := self._unfinished()) and time.monotonic() < end:
            time.sleep(0.5)
        self._check(not left, f"{left} deposits are still unfinished long after the last fault")
        self._check_all()
        self._database.engine.dispose()
        self.report.seconds = time.monotonic() - began
        return self.report

    def _unfinished(self) -> int:
        return self._in(State.QUEUED, State.RUNNING)

    def _in(self, *states: State) -> int:
        with self._database.reading() as session:
            query = sa.select(sa.func.count()).where(DepositRow.state.in_(states))
            return session.scalar(query) or 0

    # The clients.

    def _request(self, client: int) -> None:
        chance = random.Random(client)
        for number in range(client, -(-self.deposits // len(MODEL_CLASSES)), 2):
            model = f"m{number}"
            architecture = {"name": SPEC.name, "width": SPEC.width}
            registration = {"name": model, "architecture": architecture, "classes": CLASSES}
            self._send("POST", "/v1/models", json={**registration, "preprocessing": PREPROCESSING})
            self._send("PUT", f"/v1/models/{model}/weights", content=self._weights())
            allow_every_loss(self._database, model)
            for label in MODEL_CLASSES[: self.deposits - number * len(MODEL_CLASSES)]:
                while len(self.report.accepted) >= self._allowed and not self._is_over.wait(0.05):
                    pass
                images = {"content": deposit_zip([label], 6), "params": {"purpose": "deposit"}}
                dataset = self._send("POST", f"/v1/models/{model}/datasets", **images).json()["id"]
                body = {"dataset_id": dataset, "reason": "chaos", "config": CONFIG}
                path, key = f"/v1/models/{model}/deposits", str(uuid.uuid4())
                deposit_id = self._send("POST", path, key, json=body).json()["id"]
                self.report.accepted[model, label] = deposit_id
                if chance.random() < 0.3:
                    self.report.repeated += 1
                    again = self._send("POST", path, key, json=body)
                    self._check(again.json()["id"] == deposit_id, f"another job for the same key: {model}")
                    other = self._send("POST", path, key, json={**body, "reason": "another"})
                    self._check(other.status_code == 422, f"another body for the same key: {other.status_code}")

    def _weights(self) -> bytes:
        service = Service.__new__(Service)
        service.settings = Settings(state_folder=self.running.folder / "state")
        return service.weights().read_bytes()

    def _send(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        """Send a request until it is answered: after a broken connection or a 503, again with the same key."""
        headers = {"Idempotency-Key": key or str(uuid.uuid4())} if method == "POST" else {}
        for attempt in count():
            self.report.requests += 1
            try:
                answer = self._http.request(method, path, headers=headers, **options)
            except httpx.TransportError:
                answer = None
            if answer is not None:
                slug = answer.json().get("type", "").rpartition(":")[2]
                if answer.status_code < 500 and slug != "idempotent-answer-missing":
                    is_fine = answer.is_success or slug in ("weights-present", "idempotency-key-reused")
                    self._check(is_fine, f"{method} {path}: {answer.status_code} {answer.text[:200]}")
                    return answer
                if slug == "idempotent-answer-missing" and attempt >= 5 and (subject := answer.json()["subject"]):
                    return httpx.Response(200, json={"id": subject})  # the API died before it stored its answer
                self._check(answer.status_code != 500, f"{method} {path}: 500 {answer.text[:200]}")
            time.sleep(0.3)
        raise AssertionError

    # The attacker.

    def _attack(self) -> None:
        attacks: list[tuple[int, Callable[[], None]]] = [
            (4, self._kill_workers),
            (3 if self.running.has_celery else 0, self._kill_pool_child),
            (3, lambda: self._kill("api")),
            (2, lambda: self._kill("reconciler")),
            (1, self._stop_worker_past_its_lease),
            (2, self._lose_messages),
            (3, self._duplicate_messages),
            (1, self._rotate_the_master_key),
        ]
        while not self._is_over.wait(self._random.uniform(*self._pause)):
            _, attack = self._random.choices(attacks, weights=[weight for weight, _ in attacks])[0]
            try:
                attack()
            except Exception as error:  # not a fault of the service
                self.report.violations.append(f"the attacker: {error!r}")
                self._is_over.set()

    def _kill_workers(self) -> None:
        """Kill one worker, or all at once, as when their machine fails."""
        self._kill(*self._random.choice([WORKERS[:1], WORKERS[1:], WORKERS]))

    def _await_running(self) -> None:
        """Allow the clients this kill's share of the deposits, and wait until a deposit is running."""
        if self._kills:
            self._allowed = self.deposits * (self.report.kills + 1) / self._kills
        end = time.monotonic() + RUNNING_SECONDS
        while not self._in(State.RUNNING) and time.monotonic() < end and not self._is_over.wait(0.02):
            pass
        self._is_over.wait(self._random.uniform(0, 0.3))

    def _kill(self, *names: str) -> None:
        self._await_running()
        for name in names:
            self.running.kill(name)
            self.report.kills += 1
            self.report.faults[name.split()[0]] += 1
        time.sleep(self._random.uniform(0, 1))
        for name in names:
            self.running.start(name)

    def _kill_pool_child(self) -> None:
        self._await_running()
        worker = self._random.choice(WORKERS)
        for pid in self.running.jobs(worker):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.report.kills += 1
            self.report.faults["pool child"] += 1
        if self.running.processes[worker].has_ended():  # it could not repair its pool
            self.running.start(worker)

    def _stop_worker_past_its_lease(self) -> None:
        worker = self._random.choice(WORKERS)
        self._await_running()
        self.running.signal(worker, signal.SIGSTOP)
        self.report.faults["worker stopped past its lease"] += 1
        self._is_over.wait(float(self.running.environment["LIRF_LEASE_SECONDS"]) + 2)
        self.running.signal(worker, signal.SIGCONT)

    def _rotate_the_master_key(self) -> None:
        """Every second rotation, on average, is killed while it runs."""
        log = self.running.folder / "rotation.log"
        rotation = Fork(cli, ["vault", "rotate-key"], self.running.environment, log)
        if self._random.random() < 0.5:
            self._is_over.wait(self._random.uniform(0, 2))
            rotation.signal(signal.SIGKILL)
        rotation.wait()
        self.report.faults["key rotations" if rotation.code == 0 else "key rotations killed"] += 1
        self._check(rotation.code in (0, -signal.SIGKILL), f"a key rotation ended with {rotation.code}")

    def _lose_messages(self) -> None:
        self.report.faults["messages lost"] += 1
        if broker := self.running.environment.get("LIRF_BROKER_URL"):
            redis.Redis.from_url(broker).flushdb()
            return
        file = self.running.folder / "state" / "broker.sqlite3"
        with suppress(sqlite3.OperationalError), sqlite3.connect(file, timeout=5) as connection:
            connection.execute("DELETE FROM kombu_message")

    def _duplicate_messages(self) -> None:
        broker = self.running.environment.get("LIRF_BROKER_URL")
        settings = Settings(state_folder=self.running.folder / "state", broker_url=broker)
        self.report.faults["messages duplicated"] += 1
        for deposit_id in list(self.report.accepted.values())[-3:]:
            for _ in range(2):
                with suppress(Exception):  # the broker may be down
                    celery_app(settings).send_task(DEPOSIT, args=[deposit_id], retry=False)

    # The invariants.

    def _check(self, holds: bool, violation: str) -> None:
        if not holds:
            self.report.violations.append(violation)

    def _check_all(self) -> None:
        check, accepted = self._check, self.report.accepted
        check(len(accepted) == self.deposits, f"{len(accepted)} of {self.deposits} deposits were accepted")
        with self.running.client() as lirf:
            for (model, label), deposit_id in accepted.items():
                deposit = lirf.deposit(deposit_id)
                check(deposit["state"] == "deposited", f"{model} {label} is {deposit['state']}: {deposit['failure']}")
                actions = Counter(event["action"] for event in lirf.audit_events(subject=deposit_id))
                self.report.interrupted += actions["deposit.started"] > 1
                for action in ("deposit.requested", "deposit.finished"):
                    check(actions[action] == 1, f"{model} {label}: {action} happened {actions[action]} times")
            for model in {model for model, _ in accepted}:
                deposit_ids = [deposit_id for (name, _), deposit_id in accepted.items() if name == model]
                count = len(deposit_ids)
                check(lirf.model(model)["revision"] == count, f"{model} has another revision than {count}")
                check(len(lirf.deposits(model)) == count, f"{model} has deposits that no client was told of")
                withdrawal = lirf.withdraw(deposit_ids, holder="chaos", reason="check")
                withdrawals = lirf.infer(model, infer_request(1))["parameters"]["withdrawals"]
                check(withdrawals == [withdrawal["id"]], f"{model} does not answer with its withdrawal")
            check(lirf.verify_audit()["is_intact"], "the audit's chain is broken")
        vault = open_vault(Settings(state_folder=self.running.folder / "state"))
        for finding in maintenance.check(self._database, vault):
            check(not finding.is_loss, f"object {finding.object_name[:12]}: {finding.what}")
        maintenance.gc(self._database, vault, grace=timedelta(0))
        check(maintenance.check(self._database, vault) == [], "garbage is left in the vault")


def main(
    deposits: Annotated[int, typer.Option(help="How many deposits the clients request.")] = 60,
    kind: Annotated[Kind, typer.Option(help="`spread-out` needs TEST_DATABASE_URL and TEST_REDIS_URL.")] = "embedded",
    seed: Annotated[int, typer.Option(help="Seed of the random attacks.")] = 0,
    forked: Annotated[
        bool, typer.Option(help="Workers are forks without Celery. They start fast, for many kills.")
    ] = False,
) -> None:
    """Attack a service while it makes deposits. Exit code 1: something was lost or done twice."""
    if kind not in KINDS:
        raise typer.BadParameter("`spread-out` needs TEST_DATABASE_URL (PostgreSQL) and TEST_REDIS_URL.")
    pause = (0.2, 2.5) if forked else (3.0, 20.0)
    with tempfile.TemporaryDirectory() as folder, started(kind, Path(folder), has_celery=not forked) as running:
        report = Chaos(running, deposits, seed, deposits * 2 // 3 if forked else 0, pause).run()
    for violation in report.violations:
        Console().print(violation, markup=False)
    Console().print(str(report), soft_wrap=True, markup=False)
    raise typer.Exit(1 if report.violations else 0)
