"""A TCP proxy that fails: it refuses, cuts, delays, or takes connections and says nothing."""

import socket
import threading
import time
from contextlib import suppress
from typing import Literal

Mode = Literal["through", "refused", "silent", "slow"]


class FaultyProxy:
    """Connections to `port` go to the address given, as `mode` has it. A change of mode cuts those there are."""

    def __init__(self, host: str, port: int, delay: float = 0.05) -> None:
        self._to, self._delay = (host, port), delay
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
        """Every connection breaks off, in the middle of whatever goes over it."""
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
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
            server = socket.create_connection(self._to)
        except OSError:
            client.close()
            return
        with self._lock:
            self._open.add(server)
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(65_536):
                if self._mode == "slow":
                    time.sleep(self._delay)
                sink.sendall(chunk)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()  # the other direction's thread closes the other one
