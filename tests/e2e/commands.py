"""The command blocks of a page, as bash runs them one after the other."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("LIRF_", "TEST_"))}
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS = "http://127.0.0.1:8000"


def blocks(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text())


class Terminals:
    """Two of them, in a folder that has the environment of the repository. The service has a port of its own."""

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
        """The second terminal; returns when the service is ready. The script's last command is `lirf up`."""
        *first, last = [line.split("#")[0] for line in script.strip().splitlines()]
        command = "\n".join([*first, f"exec {last.strip()} --port {self._port}"])
        with (self._folder / "up.log").open("wb") as log:
            self._up = subprocess.Popen(
                ["bash", "-ec", command], cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )
        for _ in range(600):
            assert self._up.poll() is None, self._logged()
            try:
                if httpx.get(f"{self._url}/v2/health/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"the service is not ready: {self._logged()}")

    def run(self, scripts: list[str]) -> str:
        """The first terminal: all of it by one shell, which ends at the first command that fails. Its output."""
        script = "shopt -s expand_aliases\nset -eo pipefail\n" + "\n".join(scripts).replace(_ADDRESS, self._url)
        ended = subprocess.run(
            ["bash"],
            input=script,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}\n{self._logged()}"
        return ended.stdout

    def _logged(self) -> str:
        log = self._folder / "up.log"
        return log.read_text()[-3000:] if log.exists() else ""
