"""Faults that reviews and attacks found. Each one began as a failing test."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.deposits.jobs import JOBS
from app.inference.batches import Batcher
from lirf_client import LirfError
from tests.app.conftest import HTTP, Service, begins_with
from tests.app.factories import infer_request


def vault_files(service: Service) -> set[Path]:
    return {path for path in (service.settings.folder / "vault").rglob("*") if path.is_file()}


@begins_with("auk")
def test_an_answer_computed_during_a_revocation_does_not_show_the_class(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdrawal = service.custodian.withdraw([service.deposits[0]], holder="h", reason="r")
    compute = Batcher._logits_of
    revoked = threading.Event()

    def slow(self: Batcher, *arguments: Any) -> Any:
        answer = compute(self, *arguments)
        if not revoked.is_set():
            service.custodian.revoke(withdrawal["id"])
            revoked.set()
        return answer

    monkeypatch.setattr(Batcher, "_logits_of", slow)
    answer = service.reader.infer("birds", infer_request(1))
    assert answer["parameters"]["withdrawals"] == []
    assert answer["outputs"][1]["data"][0] == 0.0


@pytest.mark.parametrize(
    "fault", [SystemExit(), KeyboardInterrupt(), OperationalError("COMMIT", {}, Exception("gone"))]
)
@begins_with()
def test_objects_stay_if_it_is_unknown_whether_the_commit_happened(
    service: Service, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    deposit_id = service.queue(["auk"])
    publish = JOBS.publish

    def publish_then_fail(*arguments: Any, **options: Any) -> None:
        publish(*arguments, **options)
        raise fault

    monkeypatch.setattr(JOBS, "publish", publish_then_fail)
    if isinstance(fault, OperationalError):
        service.work(deposit_id)
    else:
        with pytest.raises(type(fault)):
            service.work(deposit_id)
    assert service.reader.deposit(deposit_id)["state"] == "deposited"
    service.reader.infer("birds", infer_request())
    service.custodian.withdraw([deposit_id], holder="h", reason="r")


@begins_with()
def test_passing_trouble_requeues_the_deposit_and_keeps_its_images(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposit_id = service.queue(["auk"])
    heartbeat = JOBS.heartbeat

    def broken(*arguments: Any, **values: Any) -> None:
        raise OperationalError("UPDATE", {}, Exception("connection lost"))

    monkeypatch.setattr(JOBS, "heartbeat", broken)
    service.work(deposit_id)
    waiting = service.reader.deposit(deposit_id)
    assert (waiting["state"], waiting["attempts"]) == ("queued", 1)
    monkeypatch.setattr(JOBS, "heartbeat", heartbeat)
    service.work(deposit_id)
    assert service.reader.deposit(deposit_id)["state"] == "deposited"


@begins_with()
def test_lasting_trouble_fails_the_deposit_with_its_name(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    deposit_id = service.queue(["auk"])

    def broken(*arguments: Any, **values: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(JOBS, "heartbeat", broken)
    for _ in range(service.settings.max_attempts):
        service.work(deposit_id)
    failed = service.reader.deposit(deposit_id)
    assert failed["state"] == "failed"
    assert failed["failure"] == "After 3 attempts: OSError: no space left on device"


@begins_with()
def test_stopping_the_worker_does_not_count_as_an_attempt(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    deposit_id = service.queue(["auk"])

    def stopped(*arguments: Any, **values: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(JOBS, "heartbeat", stopped)
    for _ in range(5):
        with pytest.raises(SystemExit):
            service.work(deposit_id)
    waiting = service.reader.deposit(deposit_id)
    assert (waiting["state"], waiting["attempts"]) == ("queued", 0)


@begins_with()
def test_measuring_renews_the_lease(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.operator.upload_dataset("birds", service.archive(["auk", "emu"], 100), purpose="evaluation")
    deposit_id = service.queue(["auk"])
    phases: list[str] = []
    heartbeat = JOBS.heartbeat

    def counted(*arguments: Any, progress: dict[str, Any], **values: Any) -> None:
        phases.append(progress["phase"])
        heartbeat(*arguments, progress=progress, **values)

    monkeypatch.setattr(JOBS, "heartbeat", counted)
    monkeypatch.setattr("worker.heartbeat.HEARTBEAT_SECONDS", 0.0)
    service.work(deposit_id)
    assert phases.count("evaluating") >= 7  # 3 networks, 2 batches each, and the load
    assert phases.count("loading") >= 2


def test_body_is_not_read_without_a_valid_key(service: Service) -> None:
    for path in ("/v1/models", "/v1/withdrawals", "/v2/models/x/infer", "/v1/keys"):
        assert HTTP.post(service.url + path, content=b"{nonsense").status_code == 401


@begins_with()
def test_nul_characters_are_refused_everywhere(service: Service) -> None:
    deposit_id = service.queue(["emu"])
    headers = {"Authorization": f"Bearer {service.key_of('another', 'administrator')}"}
    for path in ("/v1/models/a%00b", "/v1/deposits/%00", "/v1/withdrawals/%00", "/v2/models/%00", "/v1/keys/%00"):
        assert HTTP.get(service.url + path, headers=headers).status_code == 404
    for path in ("/v1/models?cursor=%00", "/v1/audit/events?model=%00", "/v1/withdrawals?model=%00"):
        assert HTTP.get(service.url + path, headers=headers).status_code == 422
    for path, body in (
        ("/v1/keys", {"name": "\0"}),
        ("/v1/withdrawals", {"deposits": ["\0"], "holder": "h", "reason": "r"}),
        ("/v1/withdrawals", {"deposits": [deposit_id], "holder": "\0", "reason": "r"}),
        ("/v1/withdrawals", {"deposits": [deposit_id], "holder": "h", "reason": "\0"}),
        ("/v1/models/birds/deposits", {"dataset_id": "\0", "reason": "r"}),
        ("/v1/models/birds/deposits", {"dataset_id": "x", "reason": "\0"}),
        ("/v1/models/birds/deposits", {"dataset_id": "x", "reason": "r", "evaluation_set_id": "\0"}),
        ("/v2/models/birds/infer", {**infer_request(1), "parameters": {"withdrawal": "\0"}}),
    ):
        answer = HTTP.post(service.url + path, json=body, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), body


def test_only_one_of_many_registrations_of_a_name_wins(service: Service) -> None:
    headers = {"Authorization": f"Bearer {service.key_of('op', 'operator')}"}
    body = {
        "name": "same",
        "architecture": {"name": "resnet18-small", "width": 0.25},
        "classes": ["a", "b"],
        "preprocessing": {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]},
    }
    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(
            lambda _: HTTP.post(f"{service.url}/v1/models", json=body, headers=headers).status_code,
            range(6),
        )
        assert sorted(answers) == [201] + [409] * 5


@begins_with()
def test_unused_data_set_can_be_discarded_and_a_used_one_cannot(service: Service) -> None:
    before = vault_files(service)
    dataset = service.operator.upload_dataset("birds", service.archive(["auk"]))
    service.operator.discard_dataset("birds", dataset["id"])
    assert vault_files(service) == before
    service.operator.discard_dataset("birds", dataset["id"])  # discarding it again does nothing
    held_out = service.operator.upload_dataset("birds", service.archive(["emu"]), purpose="evaluation")
    service.queue(["auk"])
    with pytest.raises(LirfError, match=r"An unfinished job uses data set '.*'. Cancel that job first."):
        service.operator.discard_dataset("birds", held_out["id"])
    service.register("others", seed=1)
    with pytest.raises(LirfError, match="belongs to another model"):
        service.operator.discard_dataset("others", held_out["id"])


def test_an_expiry_at_the_end_of_time_is_a_problem(service: Service) -> None:
    with pytest.raises(LirfError) as caught:
        service.custodian.withdraw(["x"], holder="h", reason="r", expires_at="9999-12-31T23:59:59-23:59")
    assert caught.value.status == 422
