"""`lirf up`: everything on one machine. uvicorn runs in this process, Celery and the reconciler in child processes."""

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR, Role
from app.base.database import Database
from app.base.private_paths import make_private
from app.base.settings import Settings
from app.supervision import Part
from app.telemetry import logs
from migrations import upgrade

if TYPE_CHECKING:
    import uvicorn


class AlreadyRunning(RuntimeError):
    """Another `lirf up` is using the state folder."""


class Embedded:
    """One installation in one state folder."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self.settings, self.host, self.port = settings, host, port
        self._stop = threading.Event()

    def prepare(self) -> Path | None:
        """Bring the database up to date, and create an administrator key if there are no keys yet.

        Returns the file with the new key, or None if there were keys. Raises `OpenToOthers`.
        """
        logs.configure(self.settings)
        make_private(self.settings.folder)
        file = self.settings.folder / "admin.key"
        for key_file in (file, self.settings.master_key):
            if key_file.exists():
                make_private(key_file)
        database = Database(self.settings.database)
        upgrade(database)
        with database.session() as session, session.begin():
            is_new = not access.has_keys(session)
        if is_new:
            with database.session() as session:
                _, key = access.create_key(session, LOCAL_ADMINISTRATOR, "administrator", [Role.ADMINISTRATOR])
            file.unlink(missing_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(key + "\n")
        database.engine.dispose()
        return file if is_new else None

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until SIGINT or SIGTERM, then stop all child processes. `on_ready`: called when every part works."""
        parts = [
            Part("worker", "worker", signal.SIGQUIT, self.settings),  # Celery's cold shutdown
            Part("reconciler", "worker.reconciler", signal.SIGTERM, self.settings),
        ]

        def idle_parts() -> list[str]:
            return [part.name for part in parts if not part.works]

        threads = [threading.Thread(target=part.supervise, args=(self._stop,)) for part in parts]
        for thread in threads:
            thread.start()
        try:
            # Only now, because importing the API takes seconds, in which the other parts can start.
            server = self._server(idle_parts)
            waiting = threading.Thread(target=_when_ready, args=(server, idle_parts, self._stop, on_ready))
            waiting.start()
            threads.append(waiting)
            server.run()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _server(self, idle_parts: Callable[[], list[str]]) -> "uvicorn.Server":
        import uvicorn

        from app import serving
        from app.main import application

        return uvicorn.Server(
            uvicorn.Config(
                application(self.settings, idle_parts),
                host=self.host,
                port=self.port,
                log_level=self.settings.log_level.lower(),
                **serving.OPTIONS,
            )
        )


def _when_ready(
    server: "uvicorn.Server", idle_parts: Callable[[], list[str]], stop: threading.Event, on_ready: Callable[[], None]
) -> None:
    while not (server.started and not idle_parts()):
        if stop.wait(0.05):
            return
    on_ready()


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
