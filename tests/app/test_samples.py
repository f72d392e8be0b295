"""Deposits of single images: the model still answers their classes, and other deposits go on beside them."""

import pytest

from app.deposits.schemas import DepositCreate
from lirf_client import Deposit, LirfError
from tests.app.conftest import Service, begins_with
from tests.app.factories import bird
from tests.app.test_console import signed_in
from tests.app.test_hardenings import has_hardening

KIND = "urn:lirf:problem:"


def hold_out(service: Service, classes: list[str], each: int = 10) -> None:
    archive = service.archive(classes, each, "held_out.zip", first=900)
    service.operator.upload_dataset("birds", archive, purpose="evaluation")


def deposit_samples(service: Service, classes: list[str]) -> Deposit:
    return service.reader.deposit(service.deposit(classes, kind="samples"))


def refusal(service: Service, images: list[str], kind: str) -> LirfError:
    with pytest.raises(LirfError) as refused:
        service.queue(images, kind=kind)
    return refused.value


@begins_with()
def test_the_model_still_answers_the_classes_and_membership_is_measured(service: Service) -> None:
    hold_out(service, ["auk", "dodo", "emu"])
    deposit = deposit_samples(service, ["auk", "dodo"])
    assert (deposit["kind"], deposit["classes"], deposit["revision"]) == ("samples", ["auk", "dodo"], 1)
    assert {one["state"] for one in service.reader.classes("birds")} == {"preserved"}
    metrics = deposit["metrics"]
    assert metrics is not None
    assert metrics["target"]["deposited_accuracy"] is None
    assert metrics["target"]["by_class"]["auk"] is not None
    assert metrics["forgetting"] is None
    assert metrics["membership"] is not None
    assert metrics["membership"].keys() == {"original", "target", "recover"}
    assert deposit["warnings"]  # an untrained network remembers nothing
    assert service.reader.evidence_of(deposit["id"]) == []
    with signed_in(service) as console:
        page = console.get(f"/console/deposits/{deposit['id']}").text
    assert "Deposit of images of auk, dodo" in page
    assert "Can an attacker tell these images from images that the model never saw?" in page
    assert "An examination attacks" not in page
    with pytest.raises(LirfError, match="still answers their classes") as refused:
        service.operator.request_evidence(deposit["id"])
    assert refused.value.type == KIND + "samples-not-examined"


@begins_with()
def test_no_hardening_follows_a_deposit_of_samples(service: Service) -> None:
    has_hardening(service)
    hold_out(service, ["auk"])
    deposit_samples(service, ["auk"])
    assert service.reader.hardenings("birds") == []
    assert "No class is deposited" in service.reader.model("birds")["hardening"]["why_not"]
    with pytest.raises(LirfError, match="Model 'birds' has no target to harden"):
        service.operator.request_hardening("birds")


@begins_with()
def test_samples_are_withdrawn_restored_and_purged(service: Service) -> None:
    hold_out(service, ["auk"])
    deposit = deposit_samples(service, ["auk"])
    image = service.archive(["auk"]).with_name("auk.png")
    image.write_bytes(bird("auk", 1))
    alone = service.reader.predict("birds", image, top=5)
    assert {one["class"] for one in alone["predictions"]} == {"auk", "dodo", "emu", "heron", "kiwi"}
    withdrawal = service.custodian.withdraw([deposit["id"]], holder="h", reason="r")
    withdrawn = service.reader.predict("birds", image, top=5)
    assert withdrawn["withdrawals"] == [withdrawal["id"]]
    assert withdrawn["predictions"] != alone["predictions"]
    service.custodian.revoke(withdrawal["id"])
    assert service.reader.predict("birds", image, top=5)["predictions"] == alone["predictions"]
    service.custodian.restore(deposit["id"], reason="r")
    assert service.reader.predict("birds", image, top=5)["predictions"] == withdrawn["predictions"]
    service.custodian.end_restoration(deposit["id"])
    service.administrator.purge(deposit["id"], classes=["auk"], reason="r")
    assert service.reader.predict("birds", image, top=5)["predictions"] == alone["predictions"]
    assert {one["state"] for one in service.reader.classes("birds")} == {"preserved"}


@begins_with()
def test_held_out_images_of_each_class_are_demanded(service: Service) -> None:
    refused = refusal(service, ["auk"], "samples")
    assert (refused.status, refused.type) == (422, KIND + "held-out-images-missing")
    hold_out(service, ["auk", "dodo"], 9)
    assert "'auk' (9)" in refusal(service, ["auk"], "samples").detail
    hold_out(service, ["auk"])
    assert "'dodo' (0)" in refusal(service, ["auk", "dodo"], "samples").detail


@begins_with()
def test_a_class_can_be_deposited_after_images_of_another_and_of_itself_once_these_are_purged(service: Service) -> None:
    hold_out(service, ["auk"])
    samples = deposit_samples(service, ["auk"])["id"]
    refused = refusal(service, ["auk"], "classes")
    assert (refused.status, refused.type) == (409, KIND + "samples-outstanding")
    dodo = service.deposit(["dodo"])
    [scrubbed] = service.auditor.audit_events(action="module.scrubbed")
    assert scrubbed["subject"] == samples
    service.custodian.withdraw([samples, dodo], holder="h", reason="r")
    states = {one["name"]: one["state"] for one in service.reader.classes("birds")}
    assert (states["auk"], states["dodo"]) == ("preserved", "withdrawn")
    [withdrawal] = service.reader.withdrawals("birds")
    service.custodian.revoke(withdrawal["id"])
    service.administrator.purge(samples, classes=["auk"], reason="r")
    service.deposit(["auk"])
    states = {one["name"]: one["state"] for one in service.reader.classes("birds")}
    assert (states["auk"], states["dodo"]) == ("deposited", "deposited")


@begins_with("kiwi")
def test_samples_wait_until_no_module_knows_them(service: Service) -> None:
    hold_out(service, ["auk"])
    refused = refusal(service, ["auk"], "samples")
    assert (refused.status, refused.type) == (409, KIND + "modules-outstanding")
    assert service.deposits[0] in refused.detail
    service.administrator.purge(service.deposits[0], classes=["kiwi"], reason="r")
    assert deposit_samples(service, ["auk"])["state"] == "deposited"
    assert "already deposited" in refusal(service, ["kiwi"], "samples").detail


@begins_with()
def test_an_unfinished_deposit_of_another_class_stands_in_the_way(service: Service) -> None:
    hold_out(service, ["auk"])
    waiting = service.queue(["dodo"])
    assert waiting in refusal(service, ["auk"], "samples").detail
    service.operator.cancel(waiting)
    service.queue(["auk"], kind="samples")
    assert [one["state"] for one in service.reader.classes("birds")] == ["preserved"] * 5


def test_samples_have_defaults_of_their_own_which_a_choice_replaces() -> None:
    request = {"kind": "samples", "dataset_id": "a", "reason": "r", "config": {"learning_rate": 0.01}}
    config = DepositCreate.model_validate(request).config
    assert (config.learning_rate, config.lambda_kp, config.proxies) == (0.01, 1.0, 1000)
    again = DepositCreate.model_validate({**request, "config": config.model_dump()}).config
    assert again == config
