"""A worker that is stopped until its lease has ended and then continues changes nothing: another did its deposit."""

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.doses import dose
from tests.e2e.chaos import CONFIG
from tests.e2e.installation import KINDS, Kind, started
from tests.e2e.processes import wait_until
from tests.e2e.test_worker_loss import queue

LONG = {**CONFIG, "epochs": 8}  # long enough to be stopped


@pytest.mark.attack
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_continues_after_its_lease_changes_nothing(kind: Kind, tmp_path: Path) -> None:
    chance, requeued = random.Random(0), 0
    with started(kind, tmp_path, has_celery=False) as running, running.client() as lirf:
        for number in range(dose(10, 50) // len(KINDS)):
            model, revision = f"stopped-{number // 2}", number % 2 + 1
            deposit_id = queue(lirf, running.folder, ["auk", "emu"][number % 2 :][:1], LONG, model)
            running.start("worker")
            wait_until(lambda deposit_id=deposit_id: lirf.deposit(deposit_id)["state"] == "running")
            time.sleep(chance.uniform(0, 0.5))
            running.signal("worker", signal.SIGSTOP)
            running.start("other worker")
            time.sleep(float(running.environment["LIRF_LEASE_SECONDS"]) + 1)
            running.signal("worker", signal.SIGCONT)
            assert lirf.wait(deposit_id)["state"] == "deposited"
            time.sleep(1)  # the first worker has continued by then
            actions = Counter(event["action"] for event in lirf.audit_events(subject=deposit_id))
            assert actions["deposit.finished"] == 1
            assert actions["deposit.started"] == actions["deposit.requeued"] + 1
            assert lirf.model(model)["revision"] == revision
            requeued += actions["deposit.requeued"]
            for name in ("worker", "other worker"):
                running.kill(name)
        assert requeued > number / 2  # most workers were stopped while they ran
        assert lirf.verify_audit()["is_intact"]
