"""A deposit that costs more than the model's policy allows is not published, whoever asks for it and however."""

from pathlib import Path
from typing import Any

import pytest

from app.deposits.losses import BeyondBounds, Loss, Losses, demand_within
from app.deposits.ranges import RANGES
from app.deposits.schemas import DepositConfigIn
from app.registry.policies import Policy
from lirf_client import AwaitingApproval, Client, LirfError
from tests.app.conftest import HTTP, Service, begins_with, on_one_database
from tests.app.factories import CLASSES, infer_request
from tests.app.test_purges import objects
from worker.measuring import total_loss

RUINOUS = {"learning_rate": 1.0, "lambda_kp": 0.0, "lambda_fp": 0.0, "epochs": 6}
# Within what an operator may set: no weight is 0, but next to none is left.
SLY = {"learning_rate": 0.1, "momentum": 0.99, "lambda_kp": 1e-9, "proxies": 0, "lambda_fp": 0.0, "epochs": 12}
KNOWN = begins_with("auk", is_trained=True, has_evaluation_set=True)


def state_of(service: Service) -> tuple[Any, ...]:
    """What a deposit that fails must not change: answers, classes, revision, module, objects with their keys."""
    model, auk = service.reader.model("birds"), service.reader.deposit(service.deposits[0])
    modules = auk["state"], auk["module_bytes"]
    kept = {name for name, key in objects(service).items() if key is not None}
    return service.auditor.infer("birds", infer_request(raw=True)), model["revision"], modules, kept


def failure_of(service: Service, by: Client, **options: Any) -> str:
    """How a deposit of the dodo fails. The model must be as before."""
    before = state_of(service)
    deposit_id = service.queue(["dodo"], by=by, **options)
    service.work(deposit_id)
    deposit = service.reader.deposit(deposit_id)
    assert (deposit["state"], deposit["revision"], deposit["losses"]) == ("failed", None, None)
    assert state_of(service) == before
    return deposit["failure"] or ""


@pytest.mark.attack
@KNOWN
@on_one_database
def test_ruinous_settings_are_refused_or_change_nothing_whoever_asks(service: Service) -> None:
    dataset = service.operator.upload_dataset("birds", service.archive(["dodo"]))
    for client in (service.reader, service.auditor, service.custodian):
        with pytest.raises(LirfError) as caught:
            client.request_deposit("birds", dataset["id"], reason="r", config=RUINOUS)
        assert caught.value.type.endswith(":forbidden")
    with pytest.raises(LirfError) as caught:
        service.operator.request_deposit("birds", dataset["id"], reason="r", config=RUINOUS)
    assert (caught.value.status, caught.value.type) == (403, "urn:lirf:problem:settings-need-administrator")
    assert "learning_rate is 1; an operator may set it from 0.0001 to 0.1." in caught.value.detail
    assert "lambda_kp and lambda_fp are both 0" in caught.value.detail

    failure = failure_of(service, service.administrator, config=RUINOUS)
    assert "evaluation images of the preserved classes" in failure
    assert "the policy allows 5." in failure
    assert "nothing was changed" in failure


@pytest.mark.attack
@begins_with("auk", is_trained=True)
@on_one_database
@pytest.mark.parametrize("wrong", ["none", "one class", "only deposited classes", "wrong images"])
def test_no_evaluation_set_hides_a_loss(service: Service, wrong: str) -> None:
    if wrong == "one class":
        service.operator.upload_dataset("birds", service.archive(["emu"], 20), purpose="evaluation")
    elif wrong == "only deposited classes":
        service.operator.upload_dataset("birds", service.archive(["auk", "dodo"], 20), purpose="evaluation")
    elif wrong == "wrong images":
        shown = service.archive(CLASSES, 6, shown="dodo")
        service.operator.upload_dataset("birds", shown, purpose="evaluation")
    failure = failure_of(service, service.operator, config=SLY, each=8)
    # A ruined network may answer everything with the one class that has evaluation images: then proxies show the loss.
    sources = ["evaluation images", "proxies"] if wrong == "one class" else ["proxies"]
    assert any(f"{source} of the preserved classes" in failure for source in sources), failure


@KNOWN
@on_one_database
def test_an_older_module_is_bounded_on_its_own(service: Service) -> None:
    service.administrator.change_policy("birds", reason="r", max_preserved_loss=100, max_total_loss=100)
    failure = failure_of(service, service.administrator, config=RUINOUS)
    assert f"the classes of the older deposit '{service.deposits[0]}'" in failure
    assert "the preserved classes" not in failure


@begins_with(is_trained=True)
@on_one_database
def test_figures_of_proxies_come_with_a_plain_warning(service: Service) -> None:
    service.administrator.change_policy("birds", reason="tiny networks", max_preserved_loss=99, max_total_loss=99)
    deposit = service.reader.deposit(service.deposit(["auk", "dodo"]))
    assert deposit["metrics"] is None
    assert deposit["losses"] is not None
    [loss] = deposit["losses"]["preserved"]
    assert (loss["source"], loss["before"]) == ("proxies", 100)
    assert deposit["losses"]["total"] == pytest.approx(100 - loss["after"], abs=0.001)
    assert any("Proxies are no proof" in warning for warning in deposit["warnings"])


@KNOWN
@on_one_database
def test_losses_are_shown_since_the_original_beside_those_of_the_deposit(service: Service) -> None:
    deposit = service.reader.deposit(service.deposit(["dodo"]))
    metrics, losses = deposit["metrics"], deposit["losses"]
    assert metrics is not None
    assert metrics["original"] is not None
    assert losses is not None
    assert metrics["original"]["by_class"].keys() == metrics["before"]["by_class"].keys() == set(CLASSES) - {"auk"}
    assert losses["modules"].keys() == {service.deposits[0]}
    lost = (metrics["original"]["preserved_accuracy"] or 0) - (metrics["target"]["preserved_accuracy"] or 0)
    assert losses["total"] == pytest.approx(lost, abs=0.001)
    finished = next(service.auditor.audit_events(subject=deposit["id"], action="deposit.finished"))
    assert finished["details"]["losses"]["total"] == losses["total"]


def test_many_small_losses_add_up_when_the_original_is_gone() -> None:
    by_this = [Loss(90, 87, 500, "evaluation images")]
    assert total_loss([], by_this, earlier=8.0) == 11.0
    assert total_loss([Loss(95, 89, 500, "evaluation images")], by_this, earlier=8.0) == 6.0
    assert total_loss([], [Loss(90, 92, 500, "evaluation images")], earlier=8.0) == 8.0
    with pytest.raises(BeyondBounds, match=r"lose 11\.0 points in all; the policy allows 10\."):
        demand_within(Losses(by_this, 11.0), Policy("seal", False), "birds")


def test_what_was_not_measured_is_beyond_every_bound() -> None:
    with pytest.raises(BeyondBounds, match="could not be measured"):
        demand_within(Losses(), Policy("seal", False), "birds")
    demand_within(Losses(), Policy("seal", False, 100, 100, 100), "birds")
    both = [Loss(90, 89, 500, "evaluation images"), Loss(100, 40, 60, "proxies")]
    with pytest.raises(BeyondBounds, match="Of 60 proxies of the preserved classes"):
        demand_within(Losses(both, 0.0), Policy("seal", False), "birds")


def test_default_settings_are_within_the_ranges_which_the_documentation_lists() -> None:
    defaults = DepositConfigIn().model_dump()
    documented = (Path(__file__).parents[2] / "docs" / "forgetting.md").read_text()
    properties = DepositConfigIn.model_json_schema()["properties"]
    for name, (low, high) in RANGES.items():
        assert defaults[name] is None or low <= defaults[name] <= high
        assert f"| `{name}` | {low:g} to {high:g} |" in documented
        assert f"{low:g} to {high:g}" in properties[name]["description"]


@begins_with()
def test_a_deposit_under_the_rule_of_two_waits_for_a_second_person(service: Service) -> None:
    service.administrator.change_policy("birds", reason="rule of two", needs_second_person=True)
    second = Client(service.url, service.key_of("second operator", "operator"))
    with pytest.raises(AwaitingApproval) as awaiting:
        service.queue(["auk"])
    approval = awaiting.value.approval
    assert (approval["act"], approval["wish"]["classes"], service.reader.deposits("birds")) == ("deposit", ["auk"], [])
    for client, problem in ((service.operator, "own-request"), (service.custodian, "forbidden")):
        with pytest.raises(LirfError) as caught:
            client.approve(approval["id"])
        assert caught.value.type.endswith(problem)
    deposit_id = second.approve(approval["id"])["result_id"] or ""
    assert service.reader.deposit(deposit_id)["created_by"] == "operator"
    requested = next(service.auditor.audit_events(subject=deposit_id, action="deposit.requested"))
    assert (requested["actor"], requested["details"]["requested_by"]) == ("second operator", "operator")
    service.work(deposit_id)
    assert service.reader.deposit(deposit_id)["state"] == "deposited"


@begins_with()
@on_one_database
def test_an_approved_deposit_is_checked_again(service: Service) -> None:
    second = Client(service.url, service.key_of("second operator", "operator"))
    service.administrator.change_policy("birds", reason="rule of two", needs_second_person=True)
    with pytest.raises(AwaitingApproval) as awaiting:
        service.queue(["auk"])
    approval = awaiting.value.approval
    service.operator.discard_dataset("birds", approval["wish"]["dataset_id"])
    with pytest.raises(LirfError, match="was shredded"):
        second.approve(approval["id"])
    assert service.reader.approvals(waiting=True)[0]["id"] == approval["id"]


@begins_with()
@on_one_database
def test_a_bound_that_is_left_out_stays(service: Service) -> None:
    service.administrator.change_policy("birds", reason="r", max_preserved_loss=2.5, max_module_loss=5)
    headers = {"Authorization": f"Bearer {service.key_of('boss', 'administrator')}"}
    url = f"{service.url}/v1/models/birds/policy"
    headers["If-Match"] = HTTP.get(url, headers=headers).headers["ETag"]
    body = {"original": "seal", "needs_second_person": False, "reason": "r"}
    assert HTTP.put(url, headers=headers, json=body).json()["max_preserved_loss"] == 2.5
    for wrong in (-1, 101, "5"):
        assert HTTP.put(url, headers=headers, json={**body, "max_total_loss": wrong}).status_code == 422
