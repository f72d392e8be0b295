"""How uvicorn serves the API, wherever it runs."""

import gc
import os
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from fastapi import FastAPI

from app.telemetry.metrics import SHARED_METRICS

OPTIONS: dict[str, Any] = {
    "log_config": None,  # `telemetry.logs` configures it
    # Clients close an idle connection sooner, so that none sends on one that is being closed under it.
    "timeout_keep_alive": 75,
    "timeout_graceful_shutdown": 5,
}


def application() -> FastAPI:
    """For a process that does nothing else: what is loaded by now is not looked through for garbage ever again.

    That took a third of a second at times, in which nobody was answered.
    """
    from app.main import create_app  # torch takes seconds; whoever starts other processes does not need it

    app = create_app()
    gc.collect()
    gc.freeze()
    return app


def serve(host: str, port: int, workers: int) -> None:
    """Until a signal stops it. workers: processes, which share the machine's cores and tell their metrics together."""
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
    with TemporaryDirectory(prefix="lirf-metrics-") as folder:
        if workers > 1:
            os.environ[SHARED_METRICS] = folder
        uvicorn.run("app.serving:application", factory=True, host=host, port=port, workers=workers, **OPTIONS)
