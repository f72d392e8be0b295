"""Request ids in answers, logs and audit; metrics; and no secret in any of them."""

import io
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import IntegrityError
from structlog.stdlib import ProcessorFormatter

from app.base.request_id import HEADER
from app.base.settings import Settings
from app.registry import service as registry
from app.telemetry import logs
from tests.app.conftest import HTTP, Service, begins_with
from tests.app.factories import infer_request


@pytest.fixture
def log(service: Service) -> Iterator[io.StringIO]:
    """The service's log, as JSON lines."""
    (handler,) = [
        handler for handler in logging.getLogger().handlers if isinstance(handler.formatter, ProcessorFormatter)
    ]
    assert isinstance(handler, logging.StreamHandler)
    stream = io.StringIO()
    before = handler.setStream(stream)
    yield stream
    handler.setStream(before)


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def headers(service: Service, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.key_of('team', 'operator')}", **more}  # type: ignore[arg-type]


def test_answer_log_and_audit_share_the_request_id(service: Service, log: io.StringIO) -> None:
    body = {
        "name": "birds",
        "architecture": {"name": "resnet18-small", "width": 0.25},
        "classes": ["auk", "emu"],
        "preprocessing": {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]},
    }
    with_id = headers(service, **{HEADER: "trace-7"})
    answer = HTTP.post(f"{service.url}/v1/models", json=body, headers=with_id)
    assert (answer.status_code, answer.headers[HEADER]) == (201, "trace-7")
    (event,) = service.auditor.audit_events(request_id="trace-7")
    assert (event["action"], event["request_id"]) == ("model.registered", "trace-7")
    (line,) = [line for line in lines(log) if line.get("request_id") == "trace-7"]
    assert {name: line[name] for name in ("method", "route", "status", "actor", "level")} == {
        "method": "POST",
        "route": "/v1/models",
        "status": 201,
        "actor": "team",
        "level": "info",
    }
    assert service.auditor.verify_audit()["is_intact"]


@pytest.mark.parametrize("proposed", [None, "", "a b", "x" * 65, '"}{"', "ä"])
def test_a_request_without_a_valid_id_gets_a_new_one(service: Service, proposed: str | None) -> None:
    sent = {} if proposed is None else {HEADER: proposed.encode()}
    first, second = (HTTP.get(f"{service.url}/v2/health/live", headers=sent).headers[HEADER] for _ in range(2))
    assert len(first) == len(second) == 36
    assert first != second


def test_a_fault_names_the_request_id_that_is_in_the_log(
    service: Service, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "canary"

    def broken(*_: object) -> None:
        local = {"wrapped_key": secret}
        raise IntegrityError("UPDATE", local, Exception("no"), hide_parameters=True)

    monkeypatch.setattr(registry, "list_models", broken)
    answer = HTTP.get(f"{service.url}/v1/models", headers=headers(service))
    assert answer.status_code == 500
    assert answer.headers[HEADER] in answer.json()["detail"]
    while not (traces := [line for line in lines(log) if "IntegrityError" in line.get("exception", "")]):
        time.sleep(0.05)  # uvicorn logs after the answer
    assert traces[0]["request_id"] == answer.headers[HEADER]
    assert secret not in log.getvalue()


@begins_with()
def test_the_log_contains_no_key_no_query_and_no_body(service: Service, log: io.StringIO) -> None:
    key = service.key_of("team")
    sent = {"Authorization": f"Bearer {key}"}
    HTTP.get(f"{service.url}/v1/models?cursor=canary-in-a-query", headers=sent)
    HTTP.post(f"{service.url}/v1/models", json={"name": "canary-in-a-body"}, headers=sent)
    guest = service.administrator.create_key("guest", [])
    service.custodian.withdraw([service.deposit(["auk"])], holder="canary-holder", reason="canary-reason")
    assert lines(log)
    secret_of_key = key.split("_", 2)[2]  # which may contain a "_" itself
    for secret in (key, guest["key"], secret_of_key, "canary"):
        assert secret not in log.getvalue()


@begins_with("auk")
def test_prometheus_reads_requests_and_the_states_of_jobs(service: Service) -> None:
    service.custodian.withdraw([service.deposits[0]], holder="h", reason="r")
    service.queue(["emu"])
    service.reader.infer("birds", infer_request())
    text = HTTP.get(f"{service.url}/metrics", headers=headers(service)).text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["lirf_deposits", "deposited"] == samples["lirf_deposits", "queued"] == 1
    assert samples["lirf_deposits", "failed"] == 0
    assert samples["lirf_active_withdrawals",] == 1
    assert samples["lirf_oldest_queued_deposit_seconds",] > 0
    assert samples["lirf_requests_total", "/v2/models/{name}/infer", "200", "POST"] == 1
    assert samples["lirf_request_seconds_count", "/v2/models/{name}/infer", "POST"] == 1
    assert samples["process_resident_memory_bytes",] > 0


def test_an_unknown_path_adds_no_label(service: Service) -> None:
    """Otherwise anyone could fill the memory with labels."""
    for number in range(3):
        HTTP.get(f"{service.url}/nothing/{number}")
    text = HTTP.get(f"{service.url}/metrics", headers=headers(service)).text
    assert 'lirf_requests_total{method="none",route="none",status="404"} 3.0' in text
    assert "nothing" not in text


@pytest.mark.parametrize("path", ["/v2/models/birds/infer", "/v1/models", "/v1/models/birds/datasets?purpose=deposit"])
@begins_with()
def test_a_client_that_disconnects_within_its_body_is_not_a_fault_of_the_service(
    service: Service, log: io.StringIO, path: str
) -> None:
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port)) as client:
        request_headers = {
            **headers(service),
            "Host": "lirf",
            "Content-Length": "1000",
            "Content-Type": "application/octet-stream",
        }
        lines_sent = [
            f"POST {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in request_headers.items()),
            "",
            "half",
        ]
        client.sendall("\r\n".join(lines_sent).encode())
        time.sleep(0.3)
    route = path.partition("?")[0]
    while not (logged := [line for line in lines(log) if line.get("path") == route and line["status"] >= 300]):
        time.sleep(0.05)
    assert [line["status"] for line in logged] == [400]
    assert not [line for line in lines(log) if "exception" in line]


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_name_forges_a_line_or_commands_the_terminal(capfd: pytest.CaptureFixture[str], form: str) -> None:
    before = logging.getLogger().handlers
    try:
        logs.configure(Settings(log_format=form, _env_file=None))  # type: ignore[arg-type, call-arg]
        logging.getLogger("birds").warning(
            "asked for %s", "a\nb\x1b[2J\x9b2J\u2028\u202ec", extra={"path": "/\r\x1b[2J"}
        )
        try:
            raise ValueError("d\x1b[2J")
        except ValueError:
            logging.getLogger("birds").exception("broken")
    finally:
        logging.getLogger().handlers = before
    first, *_ = written = capfd.readouterr().err.splitlines()
    assert all(text in first for text in ("asked for a", "2028", "path"))
    assert not any(command in "".join(written) for command in ("\x1b[2J", "\x9b", "\r", "\u2028", "\u202e"))
