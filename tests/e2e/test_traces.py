"""If a collector is configured, the API and the worker send it their spans, which hold no secrets."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.app.conftest import own_database
from tests.e2e.installation import Installation, installation
from tests.e2e.processes import wait_until
from tests.e2e.test_worker_loss import queue

QUICK = {"epochs": 1, "batch_size": 4}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """Accepts OTLP over HTTP. spans: by the service that sent them."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = {}
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.bodies.append(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        collector.spans.setdefault(attributes["service.name"], []).extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, service: str, name: str) -> list[Span]:
        return [span for span in self.spans.get(service, []) if span.name == name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture
def traced(tmp_path: Path, collector: Collector) -> Iterator[Installation]:
    with own_database("sqlite", tmp_path) as url, installation(tmp_path, url, None) as running:
        running.environment["LIRF_OTLP_URL"] = f"http://127.0.0.1:{collector.server.server_port}/"
        running.environment["OTEL_BSP_SCHEDULE_DELAY"] = "200"
        for name in ("reconciler", "api", "worker"):
            running.start(name)
        yield running


def test_a_request_and_a_deposit_send_their_spans(traced: Installation, collector: Collector) -> None:
    lirf = traced.client()
    deposit_id = queue(lirf, traced.folder, ["auk"], QUICK)
    assert lirf.wait(deposit_id)["state"] == "deposited"
    caller = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "Authorization": f"Bearer {traced.key}"}
    answer = httpx.get(f"http://127.0.0.1:{traced.port}/v1/models?cursor=secret", headers=caller, timeout=60)
    assert answer.status_code in (200, 422)

    def spans_of_caller() -> list[Span]:
        return [span for span in collector.of("lirf-api", "GET /v1/models") if span.trace_id.hex() == TRACE]

    wait_until(lambda: bool(collector.of("lirf-worker", "deposit") and spans_of_caller()))
    (request,) = spans_of_caller()
    attributes = {item.key: item.value.string_value or item.value.int_value for item in request.attributes}
    assert (
        attributes.items()
        >= {
            "http.request.method": "GET",
            "http.route": "/v1/models",
            "http.response.status_code": answer.status_code,
            "lirf.request_id": answer.headers["X-Request-ID"],
            "url.query": 0,
        }.items()
    )
    (attempt,) = collector.of("lirf-worker", "deposit")
    assert next(item.value.string_value for item in attempt.attributes if item.key == "lirf.deposit") == deposit_id
    phases = [span.name for span in collector.spans["lirf-worker"] if span.parent_span_id == attempt.span_id]
    assert phases == ["train", "store", "read back", "measure"]
    for body in collector.bodies:
        assert traced.key.encode() not in body
        assert b"secret" not in body
