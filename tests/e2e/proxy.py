"""A TCP proxy that refuses, cuts or delays connections, or accepts them and stays silent."""

import socket
import threading
import time
from contextlib import suppress
from typing import Literal

Mode = Literal["through", "refused", "silent", "slow"]


class FaultyProxy:
    """Forwards connections to `port` to an address. `become` changes the mode, and cuts the open connections."""

    def __init__(self, host: str, port: int, delay: float = 0.05) -> None:
        self._address, self._delay = (host, port), delay
        self._mode: Mode = "through"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def become(self, mode: Mode) -> None:
        self._mode = mode
        self.cut()

    def cut(self) -> None:
        """Cut every connection, even in the middle of a transfer."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._mode == "refused":
                client.close()
                continue
            with self._lock:
                self._open.add(client)
            if self._mode != "silent":
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._address)
        except OSError:
            client.close()
            return
        with self._lock:
            self._open.add(server)
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(65_536):
                if self._mode == "slow":
                    time.sleep(self._delay)
                sink.sendall(chunk)
        for connection in (source, sink):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()  # the thread of the other direction closes the sink
