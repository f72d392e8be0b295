"""References that a worker trains from images of preserved classes, for one examination."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from app.access.service import Role
from app.cli import main
from app.datasets import service as datasets
from app.datasets.tables import DatasetRow
from app.evidence.tables import EvidenceRow
from app.vault import service as vaults
from lirf_client import LirfError
from lirf_core.training import Progress
from tests.app.conftest import Service, begins_with, on_one_database
from tests.app.test_console import signed_in
from tests.lirf_core.attackers import short_attacks
from worker.examination import examine

PRESERVED = ["dodo", "emu", "heron", "kiwi"]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is learnt is no matter here."""
    monkeypatch.setattr("lirf_core.evidence.reference.MOST_EPOCHS", 2)
    monkeypatch.setattr("lirf_core.evidence.reference.LEAST_STEPS", 2)
    with short_attacks():
        yield


def uploaded(service: Service, classes: list[str] = PRESERVED, each: int = 6) -> str:
    return service.operator.upload_dataset("birds", service.archive(classes, each), purpose="reference")["id"]


def cancel_waiting(service: Service) -> str:
    """Cancel the deposit's own examination, which nobody works on. Returns the deposit's id."""
    deposit_id = service.deposits[0]
    service.operator.cancel_evidence(service.reader.evidence_of(deposit_id)[0]["id"])
    return deposit_id


def is_shredded(service: Service, dataset_id: str) -> bool:
    with service.database.session() as session:
        return datasets.get(session, dataset_id).shredded_at is not None


def finished(service: Service, evidence_id: str) -> dict[str, Any]:
    examine(service.worker, evidence_id)
    told = service.reader.evidence(evidence_id)
    assert told["state"] == "finished", told["failure"]
    return dict(told)


@pytest.mark.slow
@begins_with("auk", has_evaluation_set=True)
def test_a_worker_trains_a_reference_and_says_so(service: Service) -> None:
    deposit_id, dataset_id = cancel_waiting(service), uploaded(service)
    asked = service.operator.request_evidence(deposit_id, train_reference_on=dataset_id)
    assert (asked["reference"], asked["reference_set_id"]) == (None, dataset_id)
    with pytest.raises(LirfError) as refusal:
        service.operator.discard_dataset("birds", dataset_id)
    assert refusal.value.type.endswith("dataset-in-use")
    told = finished(service, asked["id"])
    assert {"reference", "target"} < told["found"]["attacks"]["networks"].keys()
    assert told["found"]["missing"]["reference"].startswith("The service trained it from scratch")
    assert is_shredded(service, dataset_id)
    [trained] = service.auditor.audit_events(subject=asked["id"], action="evidence.reference_trained")
    [event] = service.auditor.audit_events(subject=asked["id"], action="evidence.finished")
    assert event["details"]["reference_set"] == {"id": dataset_id, "images": 24, "classes": 4}
    assert event["details"]["examined"]["trained_reference"] == trained["details"]["object"]
    assert trained["details"]["counts"] == dict.fromkeys(PRESERVED, 6)


@on_one_database
@begins_with("auk", has_evaluation_set=True)
def test_images_that_a_reference_must_not_see_are_refused_by_name(service: Service) -> None:
    deposit_id = cancel_waiting(service)
    for classes, each, expected in (
        (["auk", "emu", "kiwi"], 10, "has images of 'auk', which is deposited"),
        (["emu"], 30, "30 images of 1 classes"),
        (["emu", "kiwi"], 2, "4 images of 2 classes"),
    ):
        with pytest.raises(LirfError, match=expected) as refusal:
            service.operator.request_evidence(deposit_id, train_reference_on=uploaded(service, classes, each))
        assert refusal.value.type.endswith("reference-set-unfit")
    evaluation = service.operator.upload_dataset("birds", service.archive(PRESERVED, 6), purpose="evaluation")
    with pytest.raises(LirfError) as refusal:
        service.operator.request_evidence(deposit_id, train_reference_on=evaluation["id"])
    assert refusal.value.type.endswith("unknown-dataset")


@on_one_database
@begins_with("auk", has_evaluation_set=True)
def test_a_reference_is_trained_once_and_its_images_are_kept_if_asked(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposit_id, dataset_id = cancel_waiting(service), uploaded(service)
    asked = service.operator.request_evidence(deposit_id, train_reference_on=dataset_id, keep_dataset=True)

    def fails(*_: object, **__: object) -> None:
        raise OSError("the disk")

    with monkeypatch.context() as patched:
        patched.setattr("worker.examination.Examination.run", fails)
        examine(service.worker, asked["id"])
    assert service.reader.evidence(asked["id"])["state"] == "queued"
    with monkeypatch.context() as patched:
        patched.setattr("worker.examination.train_reference", fails)
        finished(service, asked["id"])
    assert not is_shredded(service, dataset_id)


@on_one_database
@begins_with("auk", has_evaluation_set=True)
def test_a_cancelled_training_stops_and_its_images_are_shredded(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposit_id, dataset_id = cancel_waiting(service), uploaded(service)
    asked = service.operator.request_evidence(deposit_id, train_reference_on=dataset_id)
    monkeypatch.setattr("worker.heartbeat.HEARTBEAT_SECONDS", 0)
    steps: list[int] = []

    def watched(self: Any, step: Progress) -> None:
        steps.append(step.step)
        service.operator.cancel_evidence(asked["id"])
        self._heartbeat.beat({})

    monkeypatch.setattr("worker.training.Training.on_step", watched)
    examine(service.worker, asked["id"])
    assert steps == [1]
    assert service.reader.evidence(asked["id"])["state"] == "cancelled"
    assert is_shredded(service, dataset_id)


@pytest.mark.slow
@on_one_database
@begins_with("auk", has_evaluation_set=True, is_trained=True)
def test_a_certificate_names_the_training_and_a_removal_destroys_the_reference(service: Service) -> None:
    deposit_id = cancel_waiting(service)
    asked = service.operator.request_evidence(deposit_id, train_reference_on=uploaded(service))
    finished(service, asked["id"])
    html = service.reader.certificate(asked["id"], format="html").decode()
    assert "a reference that this service trained from scratch, on 24 images of 4 preserved classes" in html
    assert "Reference, trained by this service" in html
    with service.database.session() as session:
        object_id = session.scalar(sa.select(EvidenceRow.reference_object_id).where(EvidenceRow.id == asked["id"]))
        assert not vaults.is_shredded(session, object_id or "")
    service.administrator.remove_model("birds", confirm="birds", reason="r")
    with service.database.session() as session:
        assert vaults.is_shredded(session, object_id or "")


@on_one_database
@begins_with("auk", has_evaluation_set=True)
def test_the_command_keeps_no_images_that_were_refused(service: Service) -> None:
    deposit_id = cancel_waiting(service)
    env = {"LIRF_URL": service.url, "LIRF_API_KEY": service.key_of("anna", Role.OPERATOR)}
    images = str(service.archive(["auk", "emu"], 10))
    refused = CliRunner().invoke(main, ["evidence", deposit_id, "--reference-images", images], env=env)
    assert refused.exit_code == 1
    assert "has images of 'auk'" in " ".join((refused.output + refused.stderr).split())
    with service.database.session() as session:
        rows = session.scalars(sa.select(DatasetRow).where(DatasetRow.purpose == "reference")).all()
    assert [row.shredded_at is None for row in rows] == [False]
    both = CliRunner().invoke(main, ["evidence", deposit_id, "--reference-images", images, "--reference", "x"], env=env)
    assert both.exit_code == 2


@on_one_database
@begins_with("auk", has_evaluation_set=True)
def test_the_console_offers_uploaded_images_to_train_a_reference_on(service: Service) -> None:
    deposit_id, dataset_id = cancel_waiting(service), uploaded(service)
    page = f"/console/deposits/{deposit_id}"
    with signed_in(service, Role.AUDITOR) as client:
        assert f'<option value="{dataset_id}">24 images of 4 classes' in client.get(page).text
        assert "Waiting for a worker" in client.post(f"{page}/evidence", data={"train_on": dataset_id}).text
        [asked, _] = service.reader.evidence_of(deposit_id)
        assert asked["reference_set_id"] == dataset_id
        examine(service.worker, asked["id"])
        shown = client.get(page).text
    assert "What may be claimed" in shown
    assert 'class="of-reference"' in shown
    assert f'<option value="{dataset_id}">' not in shown
