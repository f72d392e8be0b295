"""Commands as a person types them, against the `lirf up` of one state folder."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from demo.__main__ import free_port
from tests.app.conftest import HTTP
from tests.e2e.processes import Fork, cli, wait_until


class Terminal:
    """Runs `lirf` commands against one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self._runs = folder, free_port(), 0
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("LIRF_")}
        self.environment |= {
            "LIRF_URL": f"http://127.0.0.1:{self.port}",
            "LIRF_STATE_FOLDER": str(folder / "state"),
            "LIRF_LEASE_SECONDS": "30",
            "LIRF_RECONCILE_SECONDS": "1",
            "COLUMNS": "200",
        }

    def run(self, *arguments: str, code: int = 0) -> str:
        """What the command prints, warnings included."""
        return "".join(self._printed(*arguments, code=code))

    def json(self, *arguments: str) -> Any:
        return json.loads(self._printed(*arguments, "--json")[0])

    def _printed(self, *arguments: str, code: int = 0) -> list[str]:
        """stdout and stderr."""
        self._runs += 1
        files = [self.folder / f"{self._runs}.{name}" for name in ("out", "err")]
        done = Fork(cli, list(arguments), self.environment, *files)
        done.wait(300)
        printed = [file.read_text() for file in files]
        assert done.code == code, "".join(printed)
        return printed

    @contextmanager
    def up(self, path: str = "ready", cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Run `lirf up` until its health at this path is good."""
        with (self.folder / "up.log").open("a") as log:
            command = [Path(sys.executable).parent / "lirf", "up", "--port", str(self.port)]
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=cwd)
            try:
                wait_until(lambda: process.poll() is not None or self.health(path)[0] == 200, 180)
                assert process.poll() is None, (self.folder / "up.log").read_text()
                yield process
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(30)

    def health(self, path: str) -> tuple[int, str]:
        """Status and detail of the service's answer; status 0 if there is none."""
        try:
            answer = HTTP.get(f"{self.environment['LIRF_URL']}/v2/health/{path}", timeout=5)
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.json().get("detail", "")


def processes_of(folder: Path) -> list[tuple[int, str]]:
    """Process id and command line of living processes whose environment names the folder."""
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(folder / "state").encode() in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    processes.append((int(entry.name), command))
            except OSError:
                continue
    return processes
