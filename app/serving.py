"""Serve the API with uvicorn: its options, and `lirf serve`."""

import os
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn

from app.connections import Connection
from app.telemetry.metrics import SHARED_METRICS

OPTIONS: dict[str, Any] = {
    "http": Connection,
    "ws": "none",
    # uvloop accepts one connection in each round: of 800 that came at once, the last waited for a second.
    "loop": "asyncio",
    "log_config": None,  # `telemetry.logs` configures logging
    "proxy_headers": False,  # `app.main` reads them, only from LIRF_TRUSTED_PROXIES
    # Longer than clients keep idle connections, so that no request meets a connection that we are closing.
    "timeout_keep_alive": 75,
    "timeout_graceful_shutdown": 5,
}


def serve(host: str, port: int, workers: int) -> None:
    """Serve the API until a signal stops it. workers: processes; they share the cores and report metrics as one."""
    os.environ["PYTHONSAFEPATH"] = "1"  # the processes import nothing from the folder in which this one was started
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
    with TemporaryDirectory(prefix="lirf-metrics-") as folder:
        if workers > 1:
            os.environ[SHARED_METRICS] = folder
        uvicorn.run("app.main:application", factory=True, host=host, port=port, workers=workers, **OPTIONS)
