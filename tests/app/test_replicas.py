"""Several processes of the API on one database and vault: a withdrawal that one process ends, ends in all."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.access.service import Role
from lirf_client import Client
from tests.app.conftest import Service, begins_with, started
from tests.app.factories import infer_request
from tests.app.test_serving import workers
from tests.doses import dose

REVOCATIONS = dose(20, 500)
PAUSE_SECONDS = 0.005  # without it, the callers only wait for each other


@pytest.fixture(params=["replicas", pytest.param("workers", marks=pytest.mark.processes)])
def replicas(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Iterator[list[str]]:
    """The URLs of two replicas, or of one replica with two processes."""
    if request.param == "replicas":
        with started(service.settings) as (url, _):
            yield [service.url, url]
    else:
        with workers(service.settings, 2, tmp_path / "workers.log") as url:
            yield [url, url]


class Caller:
    """Sends requests to one replica all the time. answers: when each request began, and the withdrawals it got."""

    def __init__(self, url: str, key: str, stop: threading.Event) -> None:
        self.answers: list[tuple[float, list[str]]] = []
        self._client, self._stop = Client(url, key), stop
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            answer = self._client.infer("birds", infer_request(1))
            has_class = answer["outputs"][1]["data"][0] > 0  # a masked class has the probability 0
            assert has_class == bool(answer["parameters"]["withdrawals"])
            self.answers.append((began, answer["parameters"]["withdrawals"]))
            time.sleep(PAUSE_SECONDS)

    def has_seen(self, withdrawal_id: str) -> bool:
        return any(withdrawal_id in withdrawals for _, withdrawals in self.answers[-3:])

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()


@pytest.mark.attack
@pytest.mark.timeout(1200)
@begins_with("auk")
def test_no_replica_answers_with_a_class_after_its_revocation(service: Service, replicas: list[str]) -> None:
    """Under load: four clients send requests to both replicas all the time."""
    deposit_id = service.deposits[0]
    key, stop = service.key_of("app"), threading.Event()
    custodians = [Client(url, service.key_of("c", Role.CUSTODIAN)) for url in replicas]
    callers = [Caller(url, key, stop) for url in replicas for _ in range(2)]
    ended: dict[str, float] = {}
    try:
        for number in range(REVOCATIONS):
            opener, ender = custodians[number % 2], custodians[(number // 2) % 2]
            withdrawal_id = opener.withdraw([deposit_id], holder="h", reason="r")["id"]
            while not all(caller.has_seen(withdrawal_id) for caller in callers):
                time.sleep(0.005)
            ender.revoke(withdrawal_id)
            ended[withdrawal_id] = time.monotonic()
    finally:
        for caller in callers:
            caller.end()
    answers = [answer for caller in callers for answer in caller.answers]
    assert not [answer for answer in answers for withdrawal_id in answer[1] if answer[0] > ended[withdrawal_id]]
    assert len(answers) > 4 * REVOCATIONS


@pytest.mark.parametrize("replicas", ["replicas"], indirect=True)  # processes expire withdrawals on their own
@begins_with("auk")
def test_no_replica_answers_with_a_class_after_its_expiry(service: Service, replicas: list[str]) -> None:
    deposit_id = service.deposits[0]
    key, stop = service.key_of("app"), threading.Event()
    callers = [Caller(url, key, stop) for url in replicas]
    try:
        withdrawal = service.custodian.withdraw([deposit_id], holder="h", reason="r", expires_in_seconds=3600)
        while not all(caller.has_seen(withdrawal["id"]) for caller in callers):
            time.sleep(0.005)
        service.custodian.renew(withdrawal["id"], reason="ends soon", expires_in_seconds=1)
        ended = time.monotonic() + 1
        while not all(caller.answers[-1][0] > ended + 0.5 for caller in callers):
            time.sleep(0.05)
    finally:
        for caller in callers:
            caller.end()
    answers = [answer for caller in callers for answer in caller.answers]
    assert max(began for began, withdrawals in answers if withdrawal["id"] in withdrawals) < ended
