"""`lirf up`: everything on one machine. uvicorn runs in this process, Celery and the reconciler in child processes."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn

from app import serving
from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR, Role
from app.base.database import Database
from app.base.settings import Settings
from app.main import create_app
from migrations import upgrade

STOP_SECONDS = 2.0
RESTART_SECONDS = 1.0


class AlreadyRunning(RuntimeError):
    """Another `lirf up` is using the state folder."""


class Embedded:
    """One installation in one state folder."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self.settings, self.host, self.port = settings, host, port
        self._stop = threading.Event()

    def prepare(self) -> Path | None:
        """Bring the database up to date, and create an administrator key if there are no keys yet.

        Returns the file with the new key, or None if there were keys.
        """
        database = Database(self.settings.database)
        upgrade(database)
        with database.session() as session, session.begin():
            is_new = not access.has_keys(session)
        file = self.settings.folder / "admin.key"
        if is_new:
            with database.session() as session:
                _, key = access.create_key(session, LOCAL_ADMINISTRATOR, "administrator", [Role.ADMINISTRATOR])
            file.unlink(missing_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(key + "\n")
        database.engine.dispose()
        return file if is_new else None

    def run(self, on_started: Callable[[], None]) -> None:
        """Serve until SIGINT or SIGTERM, then stop all child processes."""
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(self.settings),
                host=self.host,
                port=self.port,
                log_level=self.settings.log_level.lower(),
                **serving.OPTIONS,
            )
        )
        worker = ["-m", "celery", "--quiet", "-A", "worker.celery_app", "worker"]
        threads = [
            threading.Thread(target=self._supervise, args=(worker, signal.SIGQUIT)),  # Celery's cold shutdown
            threading.Thread(target=self._supervise, args=(["-m", "worker.reconciler"], signal.SIGTERM)),
            threading.Thread(target=_when_started, args=(server, self._stop, on_started)),
        ]
        for thread in threads:
            thread.start()
        try:
            server.run()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _supervise(self, arguments: list[str], stop_signal: signal.Signals) -> None:
        """Run a Python process, and start it again when it dies."""
        environment = {
            **os.environ,
            "LIRF_STATE_FOLDER": str(self.settings.folder),
            "LIRF_LOG_LEVEL": self.settings.log_level,
            "LIRF_EMBEDDED": str(os.getpid()),
        }
        while not self._stop.is_set():
            # In its own session, so that Ctrl-C reaches only us and we can kill its children with it.
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, *arguments], env=environment, start_new_session=True, stdout=sys.stderr
            )
            while process.poll() is None and not self._stop.is_set():
                self._stop.wait(0.2)
            _end(process, stop_signal)
            self._stop.wait(RESTART_SECONDS)


def _end(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """Stop a process and its children at once. Running jobs stay in the database and go on at the next start."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # children may still be alive
    process.wait()


def _when_started(server: uvicorn.Server, stop: threading.Event, on_started: Callable[[], None]) -> None:
    while not server.started and not stop.is_set():
        time.sleep(0.05)
    if server.started:
        on_started()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the state folder. Raises `AlreadyRunning`."""
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"Another `lirf up` is using {folder}. Stop it, or choose another folder with --state."
            ) from None
        yield
