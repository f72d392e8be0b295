"""Child processes that `lirf up` keeps running: started again when they die, and asked for signs of life."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

from app.base.settings import Settings

STOP_SECONDS = 2.0
RESTART_SECONDS, MAX_RESTART_SECONDS = 1.0, 30.0
SILENT_SECONDS = 60.0  # a busy machine may delay a sign of life by this long

log = logging.getLogger(__name__)


class Part:
    """A Python module that runs in a process of its own, and sends a sign of life (`worker.life_sign`) as it works."""

    def __init__(self, name: str, module: str, stop_signal: signal.Signals, settings: Settings) -> None:
        self.name = name
        self._module, self._stop_signal, self._settings = module, stop_signal, settings
        self._silent_seconds = SILENT_SECONDS + settings.reconcile_seconds
        self._last_sign: float | None = None  # of the process that runs now

    @property
    def works(self) -> bool:
        """Whether the process has sent a sign of life lately."""
        last = self._last_sign
        return last is not None and time.monotonic() - last < self._silent_seconds

    def supervise(self, stop: threading.Event) -> None:
        """Run the process until `stop` is set. If it dies, start it again, at longer intervals if it never worked."""
        pause = RESTART_SECONDS
        while not stop.is_set():
            reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            process = self._start(writing)
            os.close(writing)
            while process.poll() is None and not stop.wait(0.2):
                with suppress(BlockingIOError):
                    if os.read(reading, 1 << 16):
                        self._last_sign = time.monotonic()
            os.close(reading)
            _end(process, self._stop_signal)
            pause = RESTART_SECONDS if self._last_sign else min(2 * pause, MAX_RESTART_SECONDS)
            self._last_sign = None
            if not stop.is_set():
                log.error(
                    "the %s ended with exit code %s and is started again in %g s", self.name, process.returncode, pause
                )
            stop.wait(pause)

    def _start(self, life_signs: int) -> subprocess.Popen[bytes]:
        """life_signs: the pipe that the process writes to."""
        environment = {
            **os.environ,
            "LIRF_STATE_FOLDER": str(self._settings.folder),
            "LIRF_LOG_LEVEL": self._settings.log_level,
            "LIRF_EMBEDDED": str(os.getpid()),
            "LIRF_LIFE_SIGNS": str(life_signs),
            # For its own children, as -P is for itself: never import from the folder in which `lirf up` was started.
            "PYTHONSAFEPATH": "1",
        }
        # In its own session, so that Ctrl-C reaches only us and we can kill its children with it.
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", self._module],
            env=environment,
            pass_fds=[life_signs],
            start_new_session=True,
            stdout=sys.stderr,
        )


def _end(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """Stop a process and its children at once. Running jobs stay in the database and go on at the next start."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # children may still be alive
    process.wait()
