"""`lirf up`: everything on one machine. uvicorn in this process, the Celery worker and the reconciler beside it."""

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
    """Another `lirf up` uses the state folder."""


class Embedded:
    """One installation in one state folder. `run` returns when a signal has stopped it."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self.settings, self.host, self.port = settings, host, port
        self._stop = threading.Event()

    def prepare(self) -> Path | None:
        """Brings the database up to date and makes the first administrator key where there is none.

        Returns the file that the key was written to, or None where there are keys already.
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
        """Serves until SIGINT or SIGTERM, then stops everything it started."""
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
            threading.Thread(target=self._keep, args=(worker, signal.SIGQUIT)),  # Celery's cold shutdown
            threading.Thread(target=self._keep, args=(["-m", "worker.reconciler"], signal.SIGTERM)),
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

    def _keep(self, arguments: list[str], stop_signal: signal.Signals) -> None:
        """Starts a process, and starts it again when it dies."""
        environment = {
            **os.environ,
            "LIRF_STATE_FOLDER": str(self.settings.folder),
            "LIRF_LOG_LEVEL": self.settings.log_level,
            "LIRF_EMBEDDED": str(os.getpid()),
        }
        while not self._stop.is_set():
            # A session of its own: Ctrl-C is ours to pass on, and its children are ended with it.
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, *arguments], env=environment, start_new_session=True, stdout=sys.stderr
            )
            while process.poll() is None and not self._stop.is_set():
                self._stop.wait(0.2)
            _end(process, stop_signal)
            self._stop.wait(RESTART_SECONDS)


def _end(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """Ends it at once: a deposit in progress keeps its place in the database and goes on at the next start."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # and children that outlived it
    process.wait()


def _when_started(server: uvicorn.Server, stop: threading.Event, act: Callable[[], None]) -> None:
    while not server.started and not stop.is_set():
        time.sleep(0.05)
    if server.started:
        act()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the state folder. Raises `AlreadyRunning`."""
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"another `lirf up` runs in {folder}; stop it, or choose another --state.") from None
        yield
