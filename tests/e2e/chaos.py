"""Deposits under fire: `make chaos N=200`, or `python -m tests.e2e --help`.

Clients request deposits and write down what they were told, while processes are killed and stopped and messages are
lost and doubled. At the end the service must have kept what it said. The last line sums up; exit code 1: a violation.
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
from tests.e2e.installation import KINDS, Installation, Kind, started
from tests.e2e.processes import Fork, cli

WORKERS = ["worker", "worker 2"]
OF_EACH_MODEL = CLASSES[:3]  # deposited one after the other; two are left
CONFIG = {
    "epochs": 6,
    "batch_size": 2,
    "proxies": 8,
    "proxy_batch": 2,
    "augmentation": {"crop_padding": 0, "horizontal_flip": False},
}
PREPROCESSING = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
EACH_SECONDS = 20.0  # for a deposit that has to be worked on yet
MEETING_SECONDS = 3.0  # that an attack waits for a deposit at work
RECOVERY_SECONDS = 60.0  # the lease, the reconciler's pause, and a worker that imports torch on a busy machine


@dataclass
class Report:
    """What was done to the service, and what it did wrong. `accepted`: ids of deposits, by the model and class;
    `interrupted`: how many were started more than once, since an attack met them at work.
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
    """One installation under fire."""

    def __init__(
        self, running: Installation, deposits: int, seed: int, kills: int = 0, pause: tuple[float, float] = (3, 20)
    ) -> None:
        """kills: so many, while the deposits are made. pause: seconds between attacks, from and to."""
        self.running, self.deposits, self.report = running, deposits, Report()
        self._kills, self._pause = kills, pause
        self._wanted: float = 0 if kills else deposits
        self._random, self._over = random.Random(seed), threading.Event()
        self._database = running.database()
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{running.port}", headers={"Authorization": f"Bearer {running.key}"}, timeout=30
        )

    def run(self) -> Report:
        begun = time.monotonic()
        quick = {"LIRF_CHECKPOINT_SECONDS": "0.2", "OMP_NUM_THREADS": "1"}
        self.running.environment |= {"LIRF_MAX_ATTEMPTS": "1000", **quick}
        self.running.kill("reconciler")  # which had the settings from before
        for name in ("reconciler", *WORKERS):
            self.running.start(name)
        clients = [threading.Thread(target=self._request, args=(number,)) for number in range(2)]
        for client in clients:
            client.start()
        attacker = threading.Thread(target=self._attack)
        attacker.start()
        while any(client.is_alive() for client in clients) or (
            not self._over.is_set() and (self._unfinished() or self.report.kills < self._kills)
        ):
            time.sleep(0.2)
        self._over.set()
        attacker.join()
        for client in clients:
            client.join()
        ends = time.monotonic() + RECOVERY_SECONDS + EACH_SECONDS * self._unfinished()
        while (left := self._unfinished()) and time.monotonic() < ends:
            time.sleep(0.5)
        self._demand(not left, f"{left} deposits are not finished long after the last fault")
        self._check()
        self._database.engine.dispose()
        self.report.seconds = time.monotonic() - begun
        return self.report

    def _unfinished(self) -> int:
        return self._in(State.QUEUED, State.RUNNING)

    def _in(self, *states: State) -> int:
        with self._database.reading() as session:
            query = sa.select(sa.func.count()).where(DepositRow.state.in_(states))
            return session.scalar(query) or 0

    # What clients do.

    def _request(self, client: int) -> None:
        chance = random.Random(client)
        for number in range(client, -(-self.deposits // len(OF_EACH_MODEL)), 2):
            model = f"m{number}"
            body = {"name": model, "architecture": {"name": "resnet18-small", "width": 0.25}, "classes": CLASSES}
            self._send("POST", "/v1/models", json={**body, "preprocessing": PREPROCESSING})
            self._send("PUT", f"/v1/models/{model}/weights", content=self._weights())
            for label in OF_EACH_MODEL[: self.deposits - number * len(OF_EACH_MODEL)]:
                while len(self.report.accepted) >= self._wanted and not self._over.wait(0.05):
                    pass
                images = {"content": deposit_zip([label], 6), "params": {"purpose": "deposit"}}
                dataset = self._send("POST", f"/v1/models/{model}/datasets", **images).json()["id"]
                asked = {"dataset_id": dataset, "reason": "chaos", "config": CONFIG}
                path, key = f"/v1/models/{model}/deposits", str(uuid.uuid4())
                told = self._send("POST", path, key, json=asked)
                self.report.accepted[model, label] = told.json()["id"]
                if chance.random() < 0.3:
                    self.report.repeated += 1
                    again = self._send("POST", path, key, json=asked)
                    self._demand(again.json()["id"] == told.json()["id"], f"another job for the same key: {model}")
                    other = self._send("POST", path, key, json={**asked, "reason": "another"})
                    self._demand(other.status_code == 422, f"another body for the same key: {other.status_code}")

    def _weights(self) -> bytes:
        made = Service.__new__(Service)
        made.settings = Settings(state_folder=self.running.folder / "state")
        return made.weights().read_bytes()

    def _send(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        """Until it is answered: what a broken connection or a 503 leaves open is sent again, with the same key."""
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
                    self._demand(is_fine, f"{method} {path}: {answer.status_code} {answer.text[:200]}")
                    return answer
                if slug == "idempotent-answer-missing" and attempt >= 5 and (subject := answer.json()["subject"]):
                    return httpx.Response(200, json={"id": subject})  # the API died before it kept its answer
                self._demand(answer.status_code != 500, f"{method} {path}: 500 {answer.text[:200]}")
            time.sleep(0.3)
        raise AssertionError

    # What is done to the service.

    def _attack(self) -> None:
        acts: list[tuple[int, Callable[[], None]]] = [
            (4, self._kill_workers),
            (3 if self.running.has_celery else 0, self._kill_pool_child),
            (3, lambda: self._kill("api")),
            (2, lambda: self._kill("reconciler")),
            (1, self._stop_worker_past_its_lease),
            (2, self._lose_messages),
            (3, self._double_messages),
            (1, self._rotate_the_master_key),
        ]
        while not self._over.wait(self._random.uniform(*self._pause)):
            _, act = self._random.choices(acts, weights=[weight for weight, _ in acts])[0]
            try:
                act()
            except Exception as error:  # the attack failed, not the service
                self.report.violations.append(f"the attacker: {error!r}")
                self._over.set()

    def _kill_workers(self) -> None:
        """One of them, or all at once, as when their machine fails."""
        self._kill(*self._random.choice([WORKERS[:1], WORKERS[1:], WORKERS]))

    def _await_work(self) -> None:
        """Has clients ask for this kill's share of the deposits, and waits until some of their work is done."""
        if self._kills:
            self._wanted = self.deposits * (self.report.kills + 1) / self._kills
        ends = time.monotonic() + MEETING_SECONDS
        while not self._in(State.RUNNING) and time.monotonic() < ends and not self._over.wait(0.02):
            pass
        self._over.wait(self._random.uniform(0, 0.3))

    def _kill(self, *names: str) -> None:
        self._await_work()
        for name in names:
            self.running.kill(name)
            self.report.kills += 1
            self.report.faults[name.split()[0]] += 1
        time.sleep(self._random.uniform(0, 1))
        for name in names:
            self.running.start(name)

    def _kill_pool_child(self) -> None:
        self._await_work()
        worker = self._random.choice(WORKERS)
        for pid, command in self.running.children(worker):
            if "semaphore_tracker" not in command:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self.report.kills += 1
                self.report.faults["pool child"] += 1
        if self.running.processes[worker].has_ended():  # its pool could not be repaired
            self.running.start(worker)

    def _stop_worker_past_its_lease(self) -> None:
        worker = self._random.choice(WORKERS)
        self._await_work()
        self.running.signal(worker, signal.SIGSTOP)
        self.report.faults["worker stopped past its lease"] += 1
        self._over.wait(float(self.running.environment["LIRF_LEASE_SECONDS"]) + 2)
        self.running.signal(worker, signal.SIGCONT)

    def _rotate_the_master_key(self) -> None:
        """Of two rotations one is killed on its way."""
        log = self.running.folder / "rotation.log"
        rotation = Fork(cli, ["vault", "rotate-key"], self.running.environment, log)
        if self._random.random() < 0.5:
            self._over.wait(self._random.uniform(0, 2))
            rotation.signal(signal.SIGKILL)
        rotation.wait()
        self.report.faults["key rotations" if rotation.code == 0 else "key rotations killed"] += 1
        self._demand(rotation.code in (0, -signal.SIGKILL), f"a key rotation ended with {rotation.code}")

    def _lose_messages(self) -> None:
        self.report.faults["messages lost"] += 1
        if broker := self.running.environment.get("LIRF_BROKER_URL"):
            redis.Redis.from_url(broker).flushdb()
            return
        file = self.running.folder / "state" / "broker.sqlite3"
        with suppress(sqlite3.OperationalError), sqlite3.connect(file, timeout=5) as connection:
            connection.execute("DELETE FROM kombu_message")

    def _double_messages(self) -> None:
        broker = self.running.environment.get("LIRF_BROKER_URL")
        settings = Settings(state_folder=self.running.folder / "state", broker_url=broker)
        self.report.faults["messages doubled"] += 1
        for deposit_id in list(self.report.accepted.values())[-3:]:
            for _ in range(2):
                with suppress(Exception):  # a broker may be away
                    celery_app(settings).send_task(DEPOSIT, args=[deposit_id], retry=False)

    # What must hold.

    def _demand(self, holds: bool, violation: str) -> None:
        if not holds:
            self.report.violations.append(violation)

    def _check(self) -> None:
        demand, accepted = self._demand, self.report.accepted
        demand(len(accepted) == self.deposits, f"{len(accepted)} of {self.deposits} deposits were accepted")
        with self.running.client() as lirf:
            for (model, label), deposit_id in accepted.items():
                found = lirf.deposit(deposit_id)
                demand(found["state"] == "deposited", f"{model} {label} is {found['state']}: {found['failure']}")
                actions = Counter(event["action"] for event in lirf.audit_events(subject=deposit_id))
                self.report.interrupted += actions["deposit.started"] > 1
                for action in ("deposit.requested", "deposit.finished"):
                    demand(actions[action] == 1, f"{model} {label}: {actions[action]} times {action}")
            for model in {model for model, _ in accepted}:
                held = [deposit_id for (of, _), deposit_id in accepted.items() if of == model]
                demand(lirf.model(model)["revision"] == len(held), f"{model} has another revision than {len(held)}")
                demand(len(lirf.deposits(model)) == len(held), f"{model} has deposits that nobody was told of")
                withdrawn = lirf.withdraw(held, holder="chaos", reason="check")
                shown = lirf.infer(model, infer_request(1))["parameters"]["withdrawals"]
                demand(shown == [withdrawn["id"]], f"{model} cannot be withdrawn")
            demand(lirf.verify_audit()["is_intact"], "the audit's chain is broken")
        vault = open_vault(Settings(state_folder=self.running.folder / "state"))
        for finding in maintenance.check(self._database, vault):
            demand(not finding.is_loss, f"object {finding.object_name[:12]}: {finding.what}")
        maintenance.gc(self._database, vault, grace=timedelta(0))
        demand(maintenance.check(self._database, vault) == [], "what nobody needs is not collected")


def main(
    deposits: Annotated[int, typer.Option(help="How many deposits are requested.")] = 60,
    kind: Annotated[Kind, typer.Option(help="`spread-out` needs TEST_DATABASE_URL and TEST_REDIS_URL.")] = "embedded",
    seed: Annotated[int, typer.Option(help="Of what is done when.")] = 0,
    forked: Annotated[bool, typer.Option(help="Processes that start in a blink, without Celery: many kills.")] = False,
) -> None:
    """Deposits under fire; exit code 1 when something was lost or done twice."""
    if kind not in KINDS:
        raise typer.BadParameter("`spread-out` needs TEST_DATABASE_URL (PostgreSQL) and TEST_REDIS_URL.")
    pause = (0.2, 2.5) if forked else (3.0, 20.0)
    with tempfile.TemporaryDirectory() as folder, started(kind, Path(folder), has_celery=not forked) as running:
        report = Chaos(running, deposits, seed, deposits * 2 // 3 if forked else 0, pause).run()
    for violation in report.violations:
        Console().print(violation, markup=False)
    Console().print(str(report), soft_wrap=True, markup=False)
    raise typer.Exit(1 if report.violations else 0)
