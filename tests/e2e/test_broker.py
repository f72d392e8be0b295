"""A broker that is killed, wiped or duplicates messages costs only time."""

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from app.base.settings import Settings
from app.jobs.doorbell import DEPOSIT, celery_app
from demo.__main__ import free_port
from tests.app.conftest import POSTGRESQL, own_database
from tests.doses import dose
from tests.e2e.installation import REDIS, installation, until_training
from tests.e2e.processes import wait_until
from tests.e2e.test_worker_loss import SLOW, queue

pytestmark = pytest.mark.skipif(not REDIS, reason="needs Redis: TEST_REDIS_URL")


class Broker:
    """A Redis server of the test, without persistence."""

    def __init__(self, folder: Path) -> None:
        self._port, self._folder = free_port(), folder
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(redis.Redis.from_url(self.url).ping())
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def own_broker(folder: Path) -> Iterator[Broker]:
    broker = Broker(folder)
    try:
        yield broker
    finally:
        broker.kill()


@pytest.mark.attack
@pytest.mark.timeout(1800)
def test_a_broker_that_is_killed_wiped_or_duplicates_messages_costs_only_time(tmp_path: Path) -> None:
    rounds, duplicates = dose(5, 20), 10
    with (
        own_database("postgresql" if POSTGRESQL else "sqlite", tmp_path) as database_url,
        own_broker(tmp_path) as broker,
        installation(tmp_path, database_url, broker.url) as running,
    ):
        for name in ("reconciler", "api", "worker"):
            running.start(name)
        deposit_ids: list[str] = []
        with running.client() as lirf:
            for number in range(rounds):
                broker.kill()
                config = SLOW if number == 1 else {**SLOW, "epochs": 2}
                deposit_ids.append(queue(lirf, tmp_path, [["auk"], ["emu"]][number % 2], config, f"m{number // 2}"))
                broker.start()
                redis.Redis.from_url(broker.url).flushall()
                sender = celery_app(Settings(state_folder=tmp_path / "state", broker_url=broker.url))
                for message in range(duplicates):
                    sender.send_task(DEPOSIT, args=[deposit_ids[-1 - message % min(2, len(deposit_ids))]])
                if number == 1:
                    until_training(lirf, deposit_ids[-1])
                    running.kill("worker")
                    running.start("worker")
                assert lirf.wait(deposit_ids[-1])["state"] == "deposited"
                actions = Counter(event["action"] for event in lirf.audit_events(subject=deposit_ids[-1]))
                assert actions["deposit.started"] == actions["deposit.requeued"] + 1
                assert actions["deposit.finished"] == 1
                assert lirf.model(f"m{number // 2}")["revision"] == number % 2 + 1
            assert lirf.verify_audit()["is_intact"]
