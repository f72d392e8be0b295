"""A key that is revoked in mid-stream, mid-upload and mid-request; a withdrawal that ends while its answer leaves."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from app.access.service import Role
from app.registry import service as registry
from tests.app.conftest import HTTP, Service, begins_with, on_one_database, started
from tests.app.factories import deposit_zip
from tests.doses import dose
from tests.e2e.processes import wait_until

TIMES = dose(10, 100)
NAMES: dict[str, str] = {}  # of the keys, by id
pytestmark = [pytest.mark.attack, pytest.mark.timeout(1200)]


def key_of(service: Service, *roles: Role) -> tuple[str, dict[str, str]]:
    """A new key's id, and the header that sends it."""
    name = f"short-lived {len(NAMES)}"
    key = service.administrator.create_key(name, [str(role) for role in roles])
    NAMES[key["id"]] = name
    return key["id"], {"Authorization": f"Bearer {key['key']}"}


def open_request(service: Service, head: str, headers: dict[str, str], **options: int) -> socket.socket:
    """A connection that has sent the head of a request. options: of the socket."""
    connection = socket.socket()
    if size := options.get("receive_bytes"):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    connection.connect(("127.0.0.1", httpx.URL(service.url).port or 80))
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "x", **headers}.items())
    connection.sendall(f"{head} HTTP/1.1\r\n{lines}\r\n".encode())
    connection.settimeout(60)
    return connection


def rest_of(connection: socket.socket) -> bytes:
    received = bytearray()
    with suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            received += piece
    return bytes(received)


def dataset_ids(service: Service) -> list[str]:
    headers = {"Authorization": service.operator._http.headers["Authorization"]}
    answer = HTTP.get(f"{service.url}/v1/models/birds/datasets", params={"limit": 100}, headers=headers)
    return [dataset["id"] for dataset in answer.json()["items"]]


@begins_with()
def test_a_stream_ends_with_its_key(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    keys = [key_of(service) for _ in range(TIMES)]
    streams = [open_request(service, f"GET /v1/deposits/{deposit_id}/events", headers) for _, headers in keys]
    assert all(b" 200 OK" in stream.recv(1 << 16) for stream in streams)
    for key_id, _ in keys:
        service.administrator.revoke_key(key_id)
    begun = time.monotonic()
    with ThreadPoolExecutor(TIMES) as pool:
        rests = list(pool.map(rest_of, streams))
    assert time.monotonic() - begun < 20  # a poll is half a second; the deposit waits for ever
    assert not any(b"event: end" in rest for rest in rests)


@begins_with()
def test_an_upload_of_a_revoked_key_is_not_stored(service: Service) -> None:
    content = deposit_zip(["auk"])
    before = len(dataset_ids(service))
    for number in range(TIMES):
        key_id, headers = key_of(service, Role.OPERATOR)
        headers |= {"Content-Length": str(len(content)), "Content-Type": "application/zip", "Connection": "close"}
        path = "/v1/models/birds/datasets?purpose=deposit"
        connection = open_request(service, f"POST {path}", headers)
        half = len(content) // 2
        connection.sendall(content[:half])
        time.sleep(0.02 * number)
        service.administrator.revoke_key(key_id)
        with suppress(OSError):  # the service may have ended it
            connection.sendall(content[half:])
        assert b" 401 Unauthorized" in rest_of(connection)[:200]
        connection.close()
    assert len(dataset_ids(service)) == before


@begins_with()
def test_a_job_request_of_a_revoked_key_is_not_carried_out(service: Service) -> None:
    """The key is revoked while its request waits for the model's lock in a thread, sometimes for longer than a poll."""
    names = set()
    for number in range(TIMES):
        dataset = service.operator.upload_dataset("birds", service.archive(["auk"]))["id"]
        key_id, headers = key_of(service, Role.OPERATOR)
        body = {"dataset_id": dataset, "reason": "r"}
        with ThreadPoolExecutor(2) as pool:
            with service.database.session() as session, session.begin():
                registry.lock(session, registry.get(session, "birds").id)
                request = pool.submit(HTTP.post, f"{service.url}/v1/models/birds/deposits", json=body, headers=headers)
                time.sleep(0.2)
                revocation = pool.submit(service.administrator.revoke_key, key_id)
                time.sleep(1.5 if number % 3 == 0 else 0.2)
            revocation.result()
        answer = request.result()
        names.add((answer.status_code, key_id))
        assert answer.status_code in (202, 401), answer.text
        if answer.status_code == 202:
            service.operator.cancel(answer.json()["id"])
    events = {event["subject"]: event["number"] for event in service.auditor.audit_events(action="key.revoked")}
    by_key = {event["actor"]: event["number"] for event in service.auditor.audit_events(action="deposit.requested")}
    assert not [key_id for _, key_id in names if by_key.get(NAMES[key_id], 0) > events[key_id]]


@begins_with("auk")
def test_no_answer_leaves_after_its_withdrawal_has_ended(service: Service) -> None:
    """Clients that read slowly: what the service has not sent by then never arrives."""
    for _ in range(TIMES):
        withdrawal_id = service.custodian.withdraw([service.deposits[0]], holder="h", reason="r")["id"]
        raw = bytes(4096 * 64)
        tensor = {"name": "input", "shape": [4096, 1, 8, 8], "datatype": "UINT8"}
        tensor["parameters"] = {"binary_data_size": len(raw)}
        outputs = [{"name": name} for name in ("logits", "probabilities", "class")]
        head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        headers = {
            "Authorization": service.reader._http.headers["Authorization"],
            "Inference-Header-Content-Length": str(len(head)),
            "Content-Length": str(len(head) + len(raw)),
        }
        connection = open_request(service, "POST /v2/models/birds/infer", headers, receive_bytes=4096)
        connection.sendall(head + raw)
        first = connection.recv(1000)
        assert b" 200 OK" in first
        assert int(first.partition(b"content-length: ")[2].split()[0]) > 500_000
        service.custodian.revoke(withdrawal_id)
        rest = rest_of(connection)
        assert len(rest) < 300_000
        connection.close()


class Asker:
    """Asks for large answers all the time. answers: when each began to arrive, and whether it shows the class."""

    def __init__(self, service: Service, url: str, stop: threading.Event) -> None:
        raw = bytes(2000 * 64)
        tensor = {"name": "input", "shape": [2000, 1, 8, 8], "datatype": "UINT8"}
        tensor["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps({"inputs": [tensor], "outputs": [{"name": "probabilities"}]}).encode()
        self._request = {
            "content": head + raw,
            "headers": {**service.reader._http.headers, "Inference-Header-Content-Length": str(len(head))},
        }
        self._url, self._stop = f"{url}/v2/models/birds/infer", stop
        self.answers: list[tuple[float, bool]] = []
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                with suppress(httpx.TransportError):  # cut off
                    for begun, answer in self._answer(client):
                        if answer.status_code == 200:
                            self.answers.append((begun, bool(answer.json()["parameters"]["withdrawals"])))
                time.sleep(0.02)

    def _answer(self, client: httpx.Client) -> Iterator[tuple[float, httpx.Response]]:
        with client.stream("POST", self._url, **self._request) as answer:  # type: ignore[arg-type]
            begun = time.monotonic()
            answer.read()
            yield begun, answer

    def shows_since(self, time: float) -> bool:
        return any(begun > time and shows for begun, shows in self.answers[-1:])

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(params=["one replica", "two replicas"])
def urls(request: pytest.FixtureRequest, service: Service) -> Iterator[list[str]]:
    """Of the replicas, the first of which ends the withdrawals."""
    if request.param == "one replica":
        yield [service.url]
    else:
        with started(service.settings) as (url, _):
            yield [service.url, url]


@on_one_database
@begins_with("auk")
def test_no_large_answer_begins_to_leave_after_its_withdrawal_has_ended(service: Service, urls: list[str]) -> None:
    stop = threading.Event()
    askers = [Asker(service, url, stop) for url in (urls * 2)[:2]]
    ended, opened = [], []
    try:
        for _ in range(TIMES):
            withdrawal_id = service.custodian.withdraw([service.deposits[0]], holder="h", reason="r")["id"]
            opened.append(time.monotonic())
            wait_until(lambda: all(asker.shows_since(opened[-1]) for asker in askers))
            service.custodian.revoke(withdrawal_id)
            ended.append(time.monotonic())
            time.sleep(0.3)
    finally:
        for asker in askers:
            asker.end()
    windows = list(zip(ended, [*opened[1:], float("inf")], strict=True))
    for asker in askers:
        assert sum(shows for _, shows in asker.answers) >= TIMES // 2
        shown = [begun for begun, shows in asker.answers if shows]
        assert not [begun for begun in shown for since, until in windows if since < begun < until - 0.5]
