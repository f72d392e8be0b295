"""Runs the command blocks of a page with bash, one after the other."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx

from tests.app.conftest import HTTP
from tests.doses import IS_LONG

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("LIRF_", "TEST_"))}
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS = "http://127.0.0.1:8000"


def blocks(page: Path) -> list[str]:
    """Each block of the page that is marked `sh`."""
    return _BLOCK.findall(page.read_text())


def shortened(script: str, shorter: dict[str, str]) -> str:
    """The script as it is in the long dose, otherwise a faster one. shorter: by the patterns that it replaces."""
    for written, other in shorter.items() if not IS_LONG else ():
        script = re.sub(written, other, script, flags=re.MULTILINE)
    return script


class Terminals:
    """Two terminals in a folder that has the repository's environment. The service has a port of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / ".venv").symlink_to(ROOT / ".venv")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{self._port}"
        self._environment = {**ENVIRONMENT, "LIRF_URL": self._url, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        self._up: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Terminals":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ctrl-C in the second terminal."""
        if self._up:
            self._up.send_signal(signal.SIGINT)
            self._up.wait(60)
            self._up = None

    def serve(self, script: str) -> None:
        """Runs the second terminal, and returns when the service is ready. The script must end with `lirf up`."""
        *first, last = [line.split("#")[0] for line in script.strip().splitlines()]
        command = "\n".join([*first, f"exec {last.strip()} --port {self._port}"])
        with (self._folder / "up.log").open("wb") as log:
            self._up = subprocess.Popen(
                ["bash", "-ec", command], cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )
        for _ in range(600):
            assert self._up.poll() is None, self._log()
            try:
                if HTTP.get(f"{self._url}/v2/health/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"the service is not ready: {self._log()}")

    def run(self, scripts: list[str]) -> str:
        """Runs the first terminal in one shell, which ends at the first command that fails. Returns its output."""
        script = "shopt -s expand_aliases\nset -eo pipefail\n" + "\n".join(scripts).replace(_ADDRESS, self._url)
        process = subprocess.run(
            ["bash"],
            input=script,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, f"{process.stdout[-4000:]}\n{process.stderr[-4000:]}\n{self._log()}"
        return process.stdout

    def _log(self) -> str:
        log = self._folder / "up.log"
        return log.read_text()[-3000:] if log.exists() else ""
