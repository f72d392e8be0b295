"""How uvicorn serves the API, wherever it runs."""

import os
from typing import Any

import uvicorn

OPTIONS: dict[str, Any] = {
    "log_config": None,  # `telemetry.logs` configures it
    # Clients close an idle connection sooner, so that none sends on one that is being closed under it.
    "timeout_keep_alive": 75,
    "timeout_graceful_shutdown": 5,
}


def serve(host: str, port: int, workers: int) -> None:
    """Until a signal stops it. workers: processes, which share the machine's cores."""
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
    uvicorn.run("app.main:create_app", factory=True, host=host, port=port, workers=workers, **OPTIONS)
