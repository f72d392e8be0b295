"""The server itself: its connections and processes, independent of what it serves."""

import http.client
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.base.settings import Settings
from demo.__main__ import free_port
from tests.app.conftest import HTTP, Service, on_one_database
from tests.e2e.processes import Command, wait_until


@contextmanager
def workers(settings: Settings, count: int, log: Path) -> Iterator[str]:
    """Run `lirf serve --workers`, and yield its URL."""
    port = free_port()
    environment = {
        **os.environ,
        "LIRF_STATE_FOLDER": str(settings.folder),
        "LIRF_DATABASE_URL": settings.database,
        "LIRF_DEVICE": "cpu",
    }
    process = Command(["app", "serve", "--workers", str(count), "--port", str(port)], environment, log)
    try:
        wait_until(lambda: _answers(f"http://127.0.0.1:{port}/v2/health/ready"), 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.signal(signal.SIGTERM)
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return HTTP.get(url).is_success
    except httpx.TransportError:
        return False


@on_one_database
def test_idle_connections_stay_open_longer_than_clients_keep_them(service: Service) -> None:
    """If the server closed them first, a client could not know whether the request it sent meanwhile arrived."""
    connection = http.client.HTTPConnection(httpx.URL(service.url).netloc.decode())
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().read()
    sock = connection.sock
    time.sleep(6)  # httpx keeps idle connections for 5 s, which is also uvicorn's default
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().status == 200
    assert connection.sock is sock


@on_one_database
@pytest.mark.processes
def test_metrics_add_up_all_processes_of_a_server(service: Service, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {service.key_of('prometheus')}", "Connection": "close"}
    with workers(service.settings, 2, tmp_path / "workers.log") as url:
        for _ in range(20):  # each on a new connection, which either process may accept
            assert HTTP.get(f"{url}/v1/models", headers=headers).is_success

        def metrics() -> dict[str, float]:
            text = HTTP.get(f"{url}/metrics", headers=headers).text
            samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
            return {sample.name + sample.labels.get("route", ""): sample.value for sample in samples}

        # A request is counted after its answer has left, so the other process may still have to count one.
        wait_until(lambda: metrics().get("lirf_requests_total/v1/models") == 20)
        assert "lirf_oldest_queued_deposit_seconds" in metrics()
