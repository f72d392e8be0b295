"""A process that asks a server for its health all the time, and writes down how long each answer took.

A thread of the test would wait for the test's own threads, which send megabytes.
"""

import http.client
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.processes import Fork, wait_until

PAUSE_SECONDS = 0.01


@dataclass
class Latencies:
    """Seconds of each answer, in the order in which they came."""

    seconds: list[float]

    def percentile(self, percent: float) -> float:
        return sorted(self.seconds)[math.ceil(len(self.seconds) * percent / 100) - 1]

    def __str__(self) -> str:
        shown = {"p50": self.percentile(50), "p99": self.percentile(99), "max": max(self.seconds)}
        return ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in shown.items())


@contextmanager
def probed(port: int, folder: Path) -> Iterator[Latencies]:
    """What the prober measured while the block ran; empty until it ends."""
    measured, file = Latencies([]), folder / f"health-{time.monotonic_ns()}"
    prober = Fork(_probe, [port, str(file)], dict(os.environ), folder / "prober.log")
    try:
        wait_until(lambda: file.exists() and file.stat().st_size > 0)
        yield measured
    finally:
        prober.signal(signal.SIGTERM)
        prober.wait()
        measured.seconds += [float(line) for line in file.read_text().splitlines()]
    assert prober.code == -signal.SIGTERM, (folder / "prober.log").read_text()


def _probe(port: int, file: str) -> None:
    """A new connection each time, as load balancers do."""
    with Path(file).open("a", buffering=1) as lines:
        while True:
            begun = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/v2/health/ready", headers={"Connection": "close"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            lines.write(f"{time.monotonic() - begun}\n")
            connection.close()
            time.sleep(PAUSE_SECONDS)
