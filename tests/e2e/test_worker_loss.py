"""A worker that is killed loses no deposit, with any broker, on any database."""

import os
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa

from app.deposits.doorbell import TASK, celery_app
from app.deposits.tables import CheckpointRow
from app.settings import Settings
from lirf_client import Client
from tests.app.conftest import Service
from tests.e2e.conftest import Installation, until_training, wait_until

SLOW = {"epochs": 20, "batch_size": 2, "augmentation": {"crop_padding": 0, "horizontal_flip": False}}


def queue(lirf: Client, folder: Path, classes: list[str], config: dict[str, Any] = SLOW) -> str:
    """A deposit on a tiny network; the slow one takes some seconds."""
    if not lirf.models():
        made = Service.__new__(Service)
        made.operator, made.settings = lirf, Settings(state_folder=folder / "state")
        made.register()
    archive = folder / "deposit.zip"
    from tests.app.factories import deposit_zip

    archive.write_bytes(deposit_zip(classes, 20))
    dataset = lirf.upload_dataset("birds", archive)
    return lirf.request_deposit("birds", dataset["id"], reason="licence ended", config=config)["id"]


def test_a_worker_killed_in_a_deposit_and_started_again_finishes_it(running: Installation) -> None:
    with running.client() as lirf:
        deposit_id = queue(lirf, running.folder, ["auk", "emu"])
        running.start("worker")
        until_training(lirf, deposit_id)
        wait_until(lambda: has_checkpoint(running))
        running.kill("worker")
        assert lirf.deposit(deposit_id)["state"] == "running"
        assert lirf.model("birds")["revision"] == 0
        running.start("worker")
        ended = lirf.wait(deposit_id)
        assert (ended["state"], ended["revision"]) == ("deposited", 1)
        actions = [event["action"] for event in lirf.audit_events(subject=deposit_id)][::-1]
        assert actions == [
            "deposit.requested",
            "deposit.started",
            "deposit.requeued",
            "deposit.started",
            "deposit.finished",
        ]
        assert "goes on from its last checkpoint" in running.log("worker")
        assert not has_checkpoint(running)
        withdrawal = lirf.withdraw([deposit_id], holder="h", reason="r")
        assert withdrawal["classes"] == ["auk", "emu"]


def has_checkpoint(running: Installation) -> bool:
    with running.database().reading() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(CheckpointRow)) == 1


def test_a_killed_pool_child_is_replaced(embedded: Installation) -> None:
    with embedded.client() as lirf:
        deposit_id = queue(lirf, embedded.folder, ["auk"])
        embedded.start("worker")
        until_training(lirf, deposit_id)
        (child,) = [pid for pid, command in children(embedded) if "semaphore_tracker" not in command]
        os.kill(child, signal.SIGKILL)
        assert lirf.wait(deposit_id)["state"] == "deposited"


def test_a_worker_whose_pool_cannot_be_repaired_ends_instead_of_idling(embedded: Installation) -> None:
    with embedded.client() as lirf:
        deposit_id = queue(lirf, embedded.folder, ["auk"])
        embedded.start("worker")
        until_training(lirf, deposit_id)
        for pid, _ in children(embedded):
            os.kill(pid, signal.SIGKILL)
        embedded.processes["worker"].wait(30)
        embedded.start("worker")
        assert lirf.wait(deposit_id)["state"] == "deposited"


def children(running: Installation) -> list[tuple[int, str]]:
    """Process id and command line of the worker's children."""
    found = subprocess.run(
        ["pgrep", "-a", "-P", str(running.processes["worker"].pid)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [(int(line.split()[0]), line) for line in found]


def test_lost_and_doubled_messages_change_latency_only_and_carry_no_secret(running: Installation) -> None:
    broker_url = running.environment.get("LIRF_BROKER_URL")
    file = running.folder / "state" / "broker.sqlite3"
    with running.client() as lirf:
        deposit_id = queue(lirf, running.folder, ["auk"], {**SLOW, "epochs": 1})
        if broker_url:
            wait_until(lambda: redis.Redis.from_url(broker_url).dbsize() > 0)
            redis.Redis.from_url(broker_url).flushdb()
        else:
            wait_until(lambda: file.exists() and b"lirf.deposit" in file.read_bytes())
            with sqlite3.connect(file) as connection:
                connection.execute("DELETE FROM kombu_message")
        running.start("worker")
        assert lirf.wait(deposit_id)["state"] == "deposited"

        settings = Settings(state_folder=running.folder / "state", broker_url=broker_url)
        doubled = queue(lirf, running.folder, ["emu"], {**SLOW, "epochs": 1})
        for _ in range(3):
            celery_app(settings).send_task(TASK, args=[doubled])
        ended = lirf.wait(doubled)
        assert (ended["state"], ended["attempts"], ended["revision"]) == ("deposited", 1, 2)

    secret = running.key.split("_", 2)[2].encode()
    master = (running.folder / "state" / "master.key").read_bytes()
    for path in running.folder.rglob("*"):
        if path.is_file() and path.name != "master.key":
            content = path.read_bytes()
            assert secret not in content, path
            assert master not in content, path


def test_a_killed_api_and_reconciler_lose_nothing(embedded: Installation) -> None:
    with embedded.client() as lirf:
        deposit_id = queue(lirf, embedded.folder, ["auk"])
        embedded.start("worker")
        until_training(lirf, deposit_id)
        for name in ("api", "reconciler"):
            embedded.kill(name)
        for name in ("reconciler", "api"):
            embedded.start(name)
        wait_until(lambda: lirf.deposit(deposit_id)["state"] == "deposited")
        assert lirf.deposit(deposit_id)["attempts"] == 1
