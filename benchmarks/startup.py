"""How long commands and `lirf up` take to start, and the memory of each process: `python -m benchmarks.startup`.

Times of an idle machine; the best of several runs counts, because whatever disturbs a start makes it longer.
"""

import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.experiments import RESULTS
from demo.__main__ import free_port
from lirf_client import Client

LIRF = Path(sys.executable).parent / "lirf"
RUNS = 3
MIN_CHILD_MEGABYTES = 300  # once torch is imported
PARTS = {
    "API": "lirf up",
    "worker, waiting": "-m worker",
    "worker's child": "billiard",
    "reconciler": "worker.reconciler",
}


def help_seconds() -> float:
    """CPU seconds of `lirf --help`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([LIRF, "--help"], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start(folder: Path) -> tuple[float, float, dict[str, float]]:
    """Seconds until `lirf up` is ready in a new state folder, CPU seconds of its processes by then, and peak MB."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIRF_")}
    command = [str(LIRF), "up", "--state", str(folder / "state"), "--port", str(port)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        with Client(f"http://127.0.0.1:{port}") as lirf:
            until(lirf.is_ready)
        seconds, cpu = time.perf_counter() - begun, cpu_seconds(folder)
        until(lambda: peak_megabytes(folder).get("worker's child", 0) > MIN_CHILD_MEGABYTES)
        return seconds, cpu, peak_megabytes(folder)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("`lirf up` did not start")
        time.sleep(0.05)


def processes(folder: Path) -> Iterator[Path]:
    """The folders in /proc of the processes that use the state folder."""
    state = str(folder / "state").encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if state in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                yield entry


def cpu_seconds(folder: Path) -> float:
    """What the processes and their ended children have used: it hardly depends on what else the machine does."""
    ticks = 0
    for entry in processes(folder):
        with suppress(OSError):
            ticks += sum(map(int, (entry / "stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_megabytes(folder: Path) -> dict[str, float]:
    """The peak resident memory (VmHWM) of each process of the state folder, in MB of 10^6 bytes."""
    peaks: dict[str, float] = {}
    for entry in processes(folder):
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            status = (entry / "status").read_text()
            for part, words in PARTS.items():
                if words in command:
                    peaks[part] = round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
    return peaks


def main(runs: Annotated[int, typer.Option(help="How often each is started.")] = RUNS) -> None:
    """Print the figures, and write them to `benchmarks/results/startup.md`."""
    helps = [help_seconds() for _ in range(runs + 1)][1:]  # the first run may compile to bytecode
    starts = []
    for _ in range(runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            starts.append(start(Path(folder)))
    ready, cpu = [seconds for seconds, _, _ in starts[1:]], [seconds for _, seconds, _ in starts[1:]]
    lines = [
        "| | best | worst |",
        "|---|---|---|",
        f"| `lirf --help`, CPU seconds | {min(helps):.2f} | {max(helps):.2f} |",
        f"| `lirf up` until it is ready, seconds | {min(ready):.1f} | {max(ready):.1f} |",
        f"| CPU seconds of all its processes until then | {min(cpu):.1f} | {max(cpu):.1f} |",
    ]
    for part in PARTS:
        megabytes = [peaks[part] for _, _, peaks in starts[1:] if part in peaks]
        lines.append(f"| {part}, peak memory in MB | {min(megabytes):.0f} | {max(megabytes):.0f} |")
    origin = (
        f"{os.cpu_count()} cores, {platform.machine()}; {runs} runs; load {os.getloadavg()[0]:.1f}; "
        f"measured {datetime.now(UTC):%Y-%m-%d}."
    )
    text = "\n".join(["# Start", "", *lines, "", origin, ""])
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "startup.md").write_text(text)
    Console().print(text)


if __name__ == "__main__":
    typer.run(main)
