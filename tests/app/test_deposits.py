import threading

import pytest
import torch

from app.deposits.jobs import config_of
from app.deposits.schemas import DepositConfigIn
from lirf_client import LirfError
from lirf_core.config import DepositConfig
from tests.app.conftest import HTTP, Service, begins_with
from tests.app.factories import infer_request


@begins_with()
def test_a_deposit_forgets_stores_and_measures(service: Service) -> None:
    service.operator.upload_dataset("birds", service.archive(["auk", "dodo", "emu"], 5), purpose="evaluation")
    deposit_id = service.queue(["auk", "dodo"], classes=["dodo", "auk"])
    assert service.reader.deposit(deposit_id)["state"] == "queued"
    assert [c["state"] for c in service.reader.classes("birds")] == ["depositing"] * 2 + ["preserved"] * 3

    service.work(deposit_id)
    deposit = service.reader.deposit(deposit_id)
    assert (deposit["state"], deposit["revision"], deposit["attempts"]) == ("deposited", 1, 1)
    assert deposit["classes"] == ["auk", "dodo"]
    assert (deposit["module_bytes"] or 0) > 1000
    metrics = deposit["metrics"]
    assert metrics is not None
    assert metrics["original"]["by_class"].keys() == {"auk", "dodo", "emu", "heron", "kiwi"}
    assert metrics["target"]["by_class"]["heron"] is None  # no held-out image of it
    assert metrics["target"]["deposited_accuracy"] is not None
    assert service.reader.model("birds")["revision"] == 1


@begins_with()
def test_following_ends_with_the_result(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    worker = threading.Thread(target=service.work, args=(deposit_id,))
    worker.start()
    states = [deposit["state"] for deposit in service.reader.follow(deposit_id)]
    worker.join()
    assert states[-1] == "deposited"
    assert set(states) <= {"queued", "running", "deposited"}


def test_location_leads_to_the_deposit(service: Service) -> None:

    service.register()
    dataset = service.operator.upload_dataset("birds", service.archive(["auk"]))
    headers = {"Authorization": f"Bearer {service.key_of('op', 'operator')}"}
    body = {"dataset_id": dataset["id"], "reason": "r"}
    answer = HTTP.post(f"{service.url}/v1/models/birds/deposits", json=body, headers=headers)
    assert answer.status_code == 202
    assert HTTP.get(service.url + answer.headers["location"], headers=headers).json()["id"] == answer.json()["id"]


def refusal(service: Service, images: list[str], /, **options: object) -> LirfError:
    with pytest.raises(LirfError) as caught:
        service.queue(images, **options)  # type: ignore[arg-type]
    return caught.value


@begins_with()
def test_senseless_requests_are_problems(service: Service) -> None:
    unknown = refusal(service, ["auk"], classes=["auk", "phoenix"])
    assert (unknown.status, unknown.type) == (422, "urn:lirf:problem:unknown-class")
    assert "no class 'phoenix'. Its classes are 'auk', 'dodo'" in unknown.detail
    assert refusal(service, ["auk", "emu"], classes=["auk"]).type == "urn:lirf:problem:classes-differ"
    everything = refusal(service, ["auk", "dodo", "emu", "heron", "kiwi"])
    assert (everything.status, everything.type) == (422, "urn:lirf:problem:nothing-preserved")
    assert refusal(service, ["auk"], reason="").status == 422
    assert "epochs" in refusal(service, ["auk"], config={"epochs": 0}).detail
    with pytest.raises(LirfError, match="There is no data set"):
        service.operator.request_deposit("birds", "nonsense", reason="r")
    assert service.reader.deposits("birds") == []


@begins_with()
def test_a_class_can_be_deposited_only_once(service: Service) -> None:
    first = service.queue(["auk", "dodo"])
    waiting = refusal(service, ["dodo", "emu"])
    assert (waiting.status, waiting.type) == (409, "urn:lirf:problem:already-deposited")
    assert "'dodo' of model 'birds' is in a deposit that has not ended" in waiting.detail
    service.work(first)
    assert "'dodo' of model 'birds' is already deposited" in refusal(service, ["dodo", "emu"]).detail
    assert refusal(service, ["emu", "heron", "kiwi"]).type == "urn:lirf:problem:nothing-preserved"


@begins_with()
def test_an_evaluation_set_is_never_trained_on(service: Service) -> None:
    held_out = service.operator.upload_dataset("birds", service.archive(["auk"]), purpose="evaluation")
    with pytest.raises(LirfError, match="This model has no deposit set"):
        service.operator.request_deposit("birds", held_out["id"], reason="r")


@begins_with()
def test_a_data_set_of_another_model_is_unknown(service: Service) -> None:
    service.register("others", seed=1)
    other = service.operator.upload_dataset("others", service.archive(["auk"]))
    with pytest.raises(LirfError, match="This model has no deposit set"):
        service.operator.request_deposit("birds", other["id"], reason="r")


@pytest.mark.parametrize("keep", [False, True])
@begins_with()
def test_the_deposit_set_is_shredded_when_its_deposit_ends(service: Service, keep: bool) -> None:
    files = {path.name for path in (service.settings.folder / "vault").rglob("*") if path.is_file()}
    dataset = service.operator.upload_dataset("birds", service.archive(["auk"]))
    images = {path.name for path in (service.settings.folder / "vault").rglob("*") if path.is_file()} - files
    deposit = service.operator.request_deposit(
        "birds", dataset["id"], reason="r", config={"epochs": 1, "batch_size": 4}, keep_dataset=keep
    )
    service.work(deposit["id"])
    left = {path.name for path in (service.settings.folder / "vault").rglob("*") if path.is_file()}
    assert (images <= left) is keep
    if not keep:
        with pytest.raises(LirfError, match="was shredded at") as caught:
            service.operator.request_deposit("birds", dataset["id"], reason="again")
        assert caught.value.status == 410


@begins_with()
def test_a_queued_deposit_is_cancelled_at_once(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    assert service.operator.cancel(deposit_id)["state"] == "cancelled"
    service.work(deposit_id)  # the message comes late
    assert service.reader.deposit(deposit_id)["state"] == "cancelled"
    assert [c["state"] for c in service.reader.classes("birds")] == ["preserved"] * 5
    service.deposit(["auk"])


@begins_with()
def test_a_running_deposit_is_cancelled_while_it_trains(service: Service) -> None:
    deposit_id = service.queue(["auk"], config={"epochs": 1000}, by=service.administrator)
    worker = threading.Thread(target=service.work, args=(deposit_id,))
    worker.start()
    for deposit in service.reader.follow(deposit_id):
        if deposit["progress"]["phase"] == "training":
            break
    assert service.operator.cancel(deposit_id)["is_cancel_requested"]
    worker.join(30)
    assert not worker.is_alive()
    ended = service.reader.deposit(deposit_id)
    assert (ended["state"], ended["revision"], ended["module_bytes"]) == ("cancelled", None, None)
    assert service.reader.model("birds")["revision"] == 0


@begins_with("auk")
def test_an_ended_deposit_cannot_be_cancelled(service: Service) -> None:
    deposit_id = service.deposits[0]
    with pytest.raises(LirfError, match=r"is deposited\. Only a queued or running deposit can be cancelled") as caught:
        service.operator.cancel(deposit_id)
    assert caught.value.status == 409


@begins_with()
def test_a_deposit_that_diverges_fails_with_advice_and_leaves_the_model(service: Service) -> None:
    before = service.operator.infer("birds", infer_request())
    config = {"learning_rate": 10, "weight_decay": 1, "epochs": 200}
    deposit_id = service.queue(["auk"], config=config, by=service.administrator)
    service.work(deposit_id)
    failed = service.reader.deposit(deposit_id)
    assert failed["state"] == "failed"
    assert "Lower learning_rate" in (failed["failure"] or "")
    assert service.operator.infer("birds", infer_request()) == before
    service.deposit(["auk"])


@begins_with()
def test_damaged_vault_fails_the_deposit_and_the_original_keeps_serving(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    newest = max(
        (p for p in (service.settings.folder / "vault").rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns
    )
    newest.write_bytes(newest.read_bytes()[:-1])
    for _ in range(service.settings.max_attempts):
        service.work(deposit_id)
    failed = service.reader.deposit(deposit_id)
    assert failed["state"] == "failed"
    assert "from a backup" in (failed["failure"] or "")
    assert service.reader.model("birds")["revision"] == 0


def auk_logits(service: Service) -> list[float]:
    """What the model says of the first class, raw."""
    return service.auditor.infer("birds", infer_request(3, raw=True))["outputs"][0]["data"][::5]


@begins_with()
def test_deposits_compose_and_each_module_stays_valid(service: Service) -> None:
    first = service.deposit(["auk"], config={"joining": "eq8"})
    second = service.deposit(["emu", "kiwi"], config={"epochs": 4, "joining": "eq8"})
    assert service.reader.model("birds")["revision"] == 2
    found = []
    for ids in ([first], [first, second], [second]):
        withdrawal = service.custodian.withdraw(ids, holder="h", reason="r")
        found.append(auk_logits(service))
        service.custodian.revoke(withdrawal["id"])
    alone, together, without = found
    assert together == pytest.approx(alone, abs=1e-4)
    assert without == pytest.approx(auk_logits(service), abs=1e-4)
    assert without != pytest.approx(alone, abs=1e-4)


@begins_with("auk", "emu kiwi")
def test_a_withdrawn_class_scores_the_same_whatever_else_is_withdrawn(
    service: Service,
) -> None:
    first, second = service.deposits

    def odds() -> list[float]:
        """Of the auk, against the two classes that were never deposited."""
        flat = torch.tensor(service.auditor.infer("birds", infer_request(3, raw=True))["outputs"][0]["data"])
        of_classes = dict(zip(service.reader.model("birds")["classes"], flat.view(3, 5).T, strict=True))
        preserved = [z for name, z in of_classes.items() if name not in ("auk", "emu", "kiwi")]
        return (of_classes["auk"] - torch.stack(preserved).logsumexp(0)).tolist()

    found = []
    for ids in ([first], [first, second]):
        withdrawal = service.custodian.withdraw(ids, holder="h", reason="r")
        found.append(odds())
        service.custodian.revoke(withdrawal["id"])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_defaults_of_the_api_are_those_of_the_method() -> None:
    assert config_of(DepositConfigIn().model_dump()) == DepositConfig()
