"""A doorbell for work that is claimed or done costs no process, and a child that was rung takes the oldest job."""

import sqlite3

import pytest

from app.base.settings import Settings
from app.jobs.doorbell import DEPOSIT, EXAMINE, Doorbell
from tests.e2e.installation import Installation, until_training
from tests.e2e.processes import wait_until
from tests.e2e.test_worker_loss import queue


@pytest.mark.timeout(600)
def test_a_stale_doorbell_starts_no_child_and_any_doorbell_gets_the_oldest_job_done(embedded: Installation) -> None:
    embedded.kill("reconciler")  # it would ring again
    folder = embedded.folder / "state"
    doorbell = Doorbell(Settings(state_folder=folder))
    with embedded.client() as lirf:
        deposit_id = queue(lirf, embedded.folder, ["auk"])
        queue_file = folder / "broker.sqlite3"
        wait_until(lambda: queue_file.exists() and b"lirf.deposit" in queue_file.read_bytes())
        with sqlite3.connect(queue_file) as connection:
            connection.execute("DELETE FROM kombu_message")
        doorbell.ring(EXAMINE, "of another job")
        embedded.start("worker")
        until_training(lirf, deposit_id)
        of_the_deposit = embedded.jobs("worker")
        assert lirf.wait(deposit_id)["state"] == "deposited"

        wait_until(
            lambda: bool(embedded.jobs("worker") - of_the_deposit) and not embedded.jobs("worker") & of_the_deposit, 120
        )
        before = embedded.jobs("worker")
        for _ in range(4):
            doorbell.ring(DEPOSIT, deposit_id)
        wait_until(lambda: embedded.log("worker").count("no job waits") >= 4, 120)
        assert embedded.jobs("worker") == before
