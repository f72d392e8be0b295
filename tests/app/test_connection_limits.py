"""How many connections there may be, and how much, how slowly and how far ahead a client may send."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, RemoteDisconnected

import httpx
import pytest

from app import connections
from app.access.service import Role
from app.connections import MAX_PIPELINED
from tests.app.conftest import Service, begins_with, on_one_database

pytestmark = [on_one_database, pytest.mark.attack]
BODY = b'{"name": "new", "role": "reader"}'


class Peer(HTTPConnection):
    """A connection that stays open after an answer. HTTPConnection would connect anew when it is ended."""

    auto_open = 0

    def __init__(self, service: Service) -> None:
        super().__init__("127.0.0.1", httpx.URL(service.url).port or 80, timeout=30)
        self.headers = {"Authorization": f"Bearer {service.key_of('peer')}"}
        self.connect()

    def ask(self, path: str = "/v1/models") -> int:
        self.request("GET", path, headers=self.headers)
        return self.status()

    def begin(self) -> None:
        """Send a request's headers. The server has read them, and works on the request until `finish`."""
        self.putrequest("POST", "/v2/models/birds/infer")
        for name, value in (*self.headers.items(), ("Content-Length", str(len(BODY))), ("Expect", "100-continue")):
            self.putheader(name, value)
        self.endheaders()
        assert self.sock.recv(64) == b"HTTP/1.1 100 Continue\r\n\r\n"

    def finish(self) -> int:
        self.send(BODY)
        return self.status()

    def status(self) -> int:
        answer = self.getresponse()
        answer.read()
        return answer.status


@pytest.fixture
def connect(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Peer]]:
    """Opens connections to a service that allows four."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
    peers: list[Peer] = []

    def connect() -> Peer:
        peers.append(Peer(service))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.close()


@begins_with()
def test_a_full_server_refuses_who_comes_and_answers_who_was_there(connect: Callable[[], Peer]) -> None:
    working = [connect() for _ in range(4)]
    for peer in working:
        peer.begin()
    newcomer = connect()
    assert newcomer.ask("/v2/health/ready") == 200
    assert [peer.finish() for peer in working] == [422] * 4
    assert [peer.ask() for peer in working] == [200] * 4  # although there is one more than it allows
    assert newcomer.ask() == 503


@begins_with()
def test_who_comes_takes_the_place_of_the_longest_idle(connect: Callable[[], Peer]) -> None:
    idle = [connect() for _ in range(4)]
    assert [peer.ask() for peer in idle] == [200] * 4
    assert connect().ask() == 200
    with pytest.raises((ConnectionError, RemoteDisconnected)):
        idle[0].ask()
    assert [peer.ask() for peer in idle[1:]] == [200] * 3


def _sent(connection: socket.socket, pieces: Iterator[bytes]) -> int:
    """How many pieces the server takes before it ends the connection."""
    count = 0
    try:
        for count, piece in enumerate(pieces):  # noqa: B007
            connection.sendall(piece)
    except OSError:
        pass
    return count


@begins_with()
def test_a_body_that_comes_too_slowly_is_ended(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.connections.BODY_SECONDS", 0.5)
    head = f"Host: x\r\nAuthorization: Bearer {service.key_of('slow', Role.ADMINISTRATOR)}\r\nContent-Length: 1000000"

    def slowly() -> Iterator[bytes]:
        for _ in range(600):
            yield b"x"
            time.sleep(0.05)

    with socket.create_connection(("127.0.0.1", httpx.URL(service.url).port or 80)) as connection:
        connection.sendall(f"POST /v1/keys HTTP/1.1\r\n{head}\r\n\r\n".encode())
        assert _sent(connection, slowly()) < 500


@begins_with()
def test_a_head_has_a_bound(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(service.url).port or 80)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert _sent(connection, (b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(20_000))) < 15_000


@begins_with()
def test_requests_that_are_sent_ahead_have_a_bound(service: Service) -> None:
    """Within it, all are answered, in order."""
    address = "127.0.0.1", httpx.URL(service.url).port or 80
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(address) as connection:
        connection.settimeout(30)
        connection.sendall(request * 50)
        received = b""
        while received.count(b" 200 OK") < 50:
            received += connection.recv(1 << 16)
    with socket.create_connection(address) as connection:
        connection.settimeout(30)
        received = b""
        with suppress(ConnectionError):
            connection.sendall(request * 20_000)
            while piece := connection.recv(1 << 16):
                received += piece
    assert received.count(b" 200 OK") < 2 * MAX_PIPELINED
