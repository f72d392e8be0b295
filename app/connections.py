"""Connections of the server: how long a client may take to send and to read, and how many connections there may be.

uvicorn ends only connections that are idle between two requests.
"""

import asyncio
import fcntl
import json
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.base.errors import Problem

HEAD_SECONDS = 10.0  # from the first byte of a request, or the connection's beginning, to the end of its headers
HEAD_BYTES = 64 << 10
BODY_SECONDS, BODY_BYTES = 15.0, 15_000  # a body that is awaited brings so many bytes in each such time
READ_SECONDS = 60.0  # in which a client must read something of an answer that waits for it
MAX_CONNECTIONS = 800  # of one process; most systems allow a process 1,024 open files
RESERVED = 50  # further connections, which are only told about the service's health
MAX_PIPELINED = 100  # requests that a client sends ahead of its answers
UNSENT_BYTES = 32 << 10  # in the kernel: what is not sent yet can still be taken back
_HEALTH = b"/v2/health/"
_UNSENT = 0x894B  # SIOCOUTQNSD of Linux: bytes that the kernel has not sent
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: drop what is not sent, instead of sending it after the close


class TooManyConnections(Problem):
    """The process has as many connections as it may have. Send the request again later, or to another replica."""

    status, slug, title = 503, "too-many-connections", "Too many connections are open"


class TooManyPipelined(Exception):
    """Ends the parsing of what a client has sent."""


class Connection(HttpToolsProtocol):
    """One connection. Requests find it as `scope["state"]["connection"]`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.begun = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = self._body_bytes = self._unread = 0
        self._is_in_head = True
        self._answered: RequestResponseCycle | None = None
        self._reading: asyncio.TimerHandle | None = None
        if (raw := transport.get_extra_info("socket")) is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with suppress(OSError):  # not a TCP socket
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self.app_state = {**self.app_state, "connection": self}
        self._expect_head()
        if len(self.connections) > MAX_CONNECTIONS:
            _make_room(connection for connection in self.connections if connection is not self)
        self._is_surplus = len(self.connections) > MAX_CONNECTIONS
        if len(self.connections) > MAX_CONNECTIONS + RESERVED:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._timer is None:
                self._expect_head()
        else:
            self._body_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large", b"The headers have more than %d bytes." % HEAD_BYTES)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:  # a quarter of a megabyte of them came at once and took half a second
            self.abort()
            raise TooManyPipelined
        self._is_in_head, self._head_bytes, self._body_bytes = False, 0, 0
        self._set_timer(BODY_SECONDS, self._check_body)
        is_refused = self._is_surplus and not self.url.startswith(_HEALTH)
        self.app = _refuse_connection if is_refused else self.config.loaded_app
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head = True
        self._cancel_timer()

    @property
    def is_idle(self) -> bool:
        """Whether it works on no request whose headers have come."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def unsent_bytes(self) -> int:
        """Bytes of answers that have not left this machine."""
        waiting = self.transport.get_write_buffer_size()
        raw = self.transport.get_extra_info("socket")
        if raw is None:
            return waiting
        try:
            (in_kernel,) = struct.unpack("i", fcntl.ioctl(raw.fileno(), _UNSENT, bytes(4)))
        except (OSError, ValueError):  # another system, or the connection is closed
            return waiting
        return waiting + int(in_kernel)

    def abort(self) -> None:
        """End the connection at once. Bytes that have not left are dropped, and the client sees a broken connection."""
        if self._answered:
            self._answered.disconnected = True  # or else it writes to what is closed
        self.connections.discard(self)  # it takes nobody's place from now on
        with suppress(OSError, AttributeError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._reading is None:
            self._unread = self.transport.get_write_buffer_size()
            self._reading = self.loop.call_later(READ_SECONDS, self._check_reading)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading:
            self._reading.cancel()
            self._reading = None

    def _expect_head(self) -> None:
        self._set_timer(HEAD_SECONDS, self._end_slow)

    def _end_slow(self) -> None:
        if self.is_idle:
            self._refuse(b"408 Request Timeout", b"The request's headers took more than %d seconds." % HEAD_SECONDS)
        else:  # the next request waits for the answer to the one before
            self._expect_head()

    def _check_body(self) -> None:
        """End a connection whose client sends its body too slowly, unless it is us who do not read it."""
        is_awaited = not (self.flow.read_paused or self.cycle.body or self.cycle.waiting_for_100_continue)
        if is_awaited and self._body_bytes < BODY_BYTES:
            self.abort()
        else:
            self._body_bytes = 0
            self._set_timer(BODY_SECONDS, self._check_body)

    def _check_reading(self) -> None:
        self._reading = None
        waiting = self.transport.get_write_buffer_size()
        if waiting >= self._unread:
            self.abort()
        else:
            self.pause_writing()

    def _refuse(self, status: bytes, message: bytes) -> None:
        if self.transport.is_closing():
            return
        head = b"HTTP/1.1 %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, len(message)) + message)
        self.transport.close()

    def _set_timer(self, seconds: float, then: Any) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(seconds, then)

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _stop_timers(self) -> None:
        self._cancel_timer()
        if self._reading:
            self._reading.cancel()
            self._reading = None


async def _refuse_connection(scope: Any, receive: Any, send: Any) -> None:
    detail = "Too many connections are open. Send the request again later, or to another replica."
    problem = {"type": f"urn:lirf:problem:{TooManyConnections.slug}", "title": TooManyConnections.title, "status": 503}
    body = json.dumps({**problem, "detail": detail, "error": detail}).encode()
    headers = {"content-type": "application/problem+json", "retry-after": "5", "connection": "close"}
    headers["content-length"] = str(len(body))
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 503, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _make_room(connections: Iterable[Any]) -> None:
    """End the oldest idle connection, if one is idle; those that have never sent a whole request go first."""
    idle = [connection for connection in connections if connection.is_idle]
    if idle:
        min(idle, key=lambda connection: (connection.cycle is not None, connection.begun)).abort()
