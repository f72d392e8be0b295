"""Requests from many clients at once, sent by `wrk` (a Debian package)."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

SCRIPT = """
wrk.method = "POST"
local file = io.open({body}, "rb")
wrk.body = file:read("*a")
file:close()
{headers}
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\n{{"answers": %d, "microseconds": %d, "p50": %d, "p99": %d, "errors": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class NoGenerator(RuntimeError):
    """wrk is not installed."""


@dataclass(frozen=True)
class Load:
    """The result of one run. rate: answers per second; p50, p99: percentiles of the latency in milliseconds."""

    rate: float
    p50: float
    p99: float


def send(url: str, body: bytes, headers: Mapping[str, str], clients: int, seconds: int) -> Load:
    """Send requests for some seconds; a client sends its next one when it has the last answer. Raises `NoGenerator`."""
    if shutil.which("wrk") is None:
        raise NoGenerator("wrk, which sends the requests, is not installed. Install it: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        file, script = Path(folder) / "body", Path(folder) / "load.lua"
        file.write_bytes(body)
        lines = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
        script.write_text(SCRIPT.format(body=json.dumps(str(file)), headers=lines))
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    summary = json.loads(output.splitlines()[-1])
    assert not summary["errors"], output
    return Load(1e6 * summary["answers"] / summary["microseconds"], summary["p50"] / 1000, summary["p99"] / 1000)


def median_load(loads: list[Load]) -> Load:
    """The median of each figure."""
    return Load(*(median(getattr(load, name) for load in loads) for name in ("rate", "p50", "p99")))
