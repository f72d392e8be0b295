"""Several processes of the API on one database and vault: what one of them ends, the others show no more."""

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


@pytest.fixture(params=["replicas", pytest.param("workers", marks=pytest.mark.processes)])
def replicas(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Iterator[list[str]]:
    """Two replicas; or one, of which two processes answer."""
    if request.param == "replicas":
        with started(service.settings) as (url, _):
            yield [service.url, url]
    else:
        with workers(service.settings, 2, tmp_path / "workers.log") as url:
            yield [url, url]


class Asking:
    """Asks one replica over and over; `shown` has when each question began, and which withdrawals answered it."""

    def __init__(self, url: str, key: str, stop: threading.Event) -> None:
        self.shown: list[tuple[float, list[str]]] = []
        self._client, self._stop = Client(url, key), stop
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            answer = self._client.infer("birds", infer_request(1))
            shows = answer["outputs"][1]["data"][0] > 0  # a masked class has the probability 0
            assert shows == bool(answer["parameters"]["withdrawals"])
            self.shown.append((began, answer["parameters"]["withdrawals"]))

    def saw(self, withdrawal_id: str) -> bool:
        return any(withdrawal_id in shown for _, shown in self.shown[-3:])

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()


@pytest.mark.attack
@pytest.mark.timeout(1200)
@begins_with("auk")
def test_after_a_revocation_no_replica_shows_the_class(service: Service, replicas: list[str]) -> None:
    """Under load: four clients ask both replicas all the time."""
    deposit_id = service.deposits[0]
    key, stop = service.key_of("app"), threading.Event()
    custodians = [Client(url, service.key_of("c", Role.CUSTODIAN)) for url in replicas]
    asking = [Asking(url, key, stop) for url in replicas for _ in range(2)]
    ended: dict[str, float] = {}
    try:
        for number in range(REVOCATIONS):
            opener, ender = custodians[number % 2], custodians[(number // 2) % 2]
            withdrawal_id = opener.withdraw([deposit_id], holder="h", reason="r")["id"]
            while not all(one.saw(withdrawal_id) for one in asking):
                time.sleep(0.005)
            ender.revoke(withdrawal_id)
            ended[withdrawal_id] = time.monotonic()
    finally:
        for one in asking:
            one.end()
    answers = [answer for one in asking for answer in one.shown]
    late = [(began, shown) for began, shown in answers for each in shown if began > ended[each]]
    assert not late
    assert len(answers) > 4 * REVOCATIONS


@pytest.mark.parametrize("replicas", ["replicas"], indirect=True)  # of a clock, processes tell each other nothing
@begins_with("auk")
def test_after_an_expiry_no_replica_shows_the_class(service: Service, replicas: list[str]) -> None:
    deposit_id = service.deposits[0]
    key, stop = service.key_of("app"), threading.Event()
    asking = [Asking(url, key, stop) for url in replicas]
    try:
        lent = service.custodian.withdraw([deposit_id], holder="h", reason="r", expires_in_seconds=3600)["id"]
        while not all(one.saw(lent) for one in asking):
            time.sleep(0.005)
        service.custodian.renew(lent, reason="an end in sight", expires_in_seconds=1)
        ended = time.monotonic() + 1
        while not all(one.shown[-1][0] > ended + 0.5 for one in asking):
            time.sleep(0.05)
    finally:
        for one in asking:
            one.end()
    shown = [began for one in asking for began, ids in one.shown if lent in ids]
    assert max(shown) < ended
