"""How uvicorn serves the API, wherever it runs."""

import os
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn

from app.telemetry.metrics import SHARED_METRICS

OPTIONS: dict[str, Any] = {
    "log_config": None,  # `telemetry.logs` configures it
    # Clients close an idle connection sooner, so that none sends on one that is being closed under it.
    "timeout_keep_alive": 75,
    "timeout_graceful_shutdown": 5,
}


def serve(host: str, port: int, workers: int) -> None:
    """Until a signal stops it. workers: processes, which share the machine's cores and tell their metrics together."""
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
    with TemporaryDirectory(prefix="lirf-metrics-") as folder:
        if workers > 1:
            os.environ[SHARED_METRICS] = folder
        uvicorn.run("app.main:application", factory=True, host=host, port=port, workers=workers, **OPTIONS)
