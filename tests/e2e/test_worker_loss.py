"""Killed processes and lost messages lose no deposit, on any database, with any broker."""

import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.base.settings import Settings
from app.deposits.losses import NO_BOUND
from app.jobs.doorbell import DEPOSIT, celery_app
from app.jobs.tables import CheckpointRow
from app.registry.policies import BOUNDS
from lirf_client import Client
from tests.app.conftest import Service
from tests.app.factories import deposit_zip
from tests.e2e.chaos import CONFIG
from tests.e2e.installation import Installation, until_training
from tests.e2e.processes import wait_until

SLOW = {**CONFIG, "epochs": 20}


def queue(lirf: Client, folder: Path, classes: list[str], config: dict[str, Any] = SLOW, model: str = "birds") -> str:
    """Request a deposit on a tiny network, registered if need be. With `SLOW`, it takes a few seconds."""
    if model not in [row["name"] for row in lirf.models()]:
        service = Service.__new__(Service)
        service.operator, service.settings = lirf, Settings(state_folder=folder / "state")
        service.describe(model)
        lirf.put_weights(model, service.weights())
        # Untrained networks have nothing to lose, and a few steps cost them more than the default policy allows.
        lirf.change_policy(model, reason="tiny networks", hardening="none", **dict.fromkeys(BOUNDS, NO_BOUND))
    archive = folder / "deposit.zip"
    archive.write_bytes(deposit_zip(classes, 20))
    dataset = lirf.upload_dataset(model, archive)
    return lirf.request_deposit(model, dataset["id"], reason="licence ended", config=config)["id"]


def test_a_worker_killed_during_a_deposit_finishes_it_after_its_restart(forked: Installation) -> None:
    with forked.client() as lirf:
        deposit_id = queue(lirf, forked.folder, ["auk", "emu"])
        forked.start("worker")
        until_training(lirf, deposit_id)
        wait_until(lambda: has_checkpoint(forked))
        forked.kill("worker")
        assert lirf.deposit(deposit_id)["state"] == "running"
        assert lirf.model("birds")["revision"] == 0
        forked.start("worker")
        deposit = lirf.wait(deposit_id)
        assert (deposit["state"], deposit["revision"]) == ("deposited", 1)
        actions = [event["action"] for event in lirf.audit_events(subject=deposit_id)][::-1]
        assert actions[:3] == ["deposit.requested", "deposit.started", "deposit.requeued"]
        assert actions[-2:] == ["deposit.started", "deposit.finished"]
        assert "goes on from its last checkpoint" in forked.log("worker")
        assert not has_checkpoint(forked)
        withdrawal = lirf.withdraw([deposit_id], holder="h", reason="r")
        assert withdrawal["classes"] == ["auk", "emu"]


def has_checkpoint(running: Installation) -> bool:
    with running.database().reading() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(CheckpointRow)) == 1


def test_a_killed_pool_child_is_replaced_and_a_worker_that_loses_its_pool_exits(
    embedded: Installation,
) -> None:
    with embedded.client() as lirf:
        deposit_id = queue(lirf, embedded.folder, ["auk"])
        embedded.start("worker")
        until_training(lirf, deposit_id)
        (child,) = embedded.jobs("worker")
        os.kill(child, signal.SIGKILL)
        assert lirf.wait(deposit_id)["state"] == "deposited"

        deposit_id = queue(lirf, embedded.folder, ["emu"])
        until_training(lirf, deposit_id)
        os.kill(embedded.fork_server("worker"), signal.SIGKILL)
        embedded.processes["worker"].wait(60)
        embedded.start("worker")
        assert lirf.wait(deposit_id)["state"] == "deposited"


def test_lost_and_duplicated_messages_change_only_the_latency(embedded: Installation) -> None:
    """With the queue in a file; test_broker.py uses Redis."""
    file = embedded.folder / "state" / "broker.sqlite3"
    with embedded.client() as lirf:
        deposit_id = queue(lirf, embedded.folder, ["auk"], {**SLOW, "epochs": 1})
        wait_until(lambda: file.exists() and b"lirf.deposit" in file.read_bytes())
        with sqlite3.connect(file) as connection:
            connection.execute("DELETE FROM kombu_message")
        embedded.start("worker")
        assert lirf.wait(deposit_id)["state"] == "deposited"

        deposit_id = queue(lirf, embedded.folder, ["emu"], {**SLOW, "epochs": 1})
        for _ in range(3):
            celery_app(Settings(state_folder=embedded.folder / "state")).send_task(DEPOSIT, args=[deposit_id])
        deposit = lirf.wait(deposit_id)
        assert (deposit["state"], deposit["attempts"], deposit["revision"]) == ("deposited", 1, 2)


def test_a_killed_api_and_reconciler_lose_nothing(forked: Installation) -> None:
    with forked.client() as lirf:
        deposit_id = queue(lirf, forked.folder, ["auk"])
        forked.start("worker")
        until_training(lirf, deposit_id)
        for name in ("api", "reconciler"):
            forked.kill(name)
        for name in ("reconciler", "api"):
            forked.start(name)
        wait_until(lambda: lirf.deposit(deposit_id)["state"] == "deposited")
        assert lirf.deposit(deposit_id)["attempts"] == 1
