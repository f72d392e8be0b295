"""A deposit that costs more than the model's policy allows is not published, whoever asks for it and however."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from torch import nn

import worker.deposit
from app.deposits.losses import NO_BOUND, PROXY_FACTOR, BeyondBounds, Loss, Losses, demand_within, deposit_warnings
from app.deposits.ranges import RANGES
from app.deposits.schemas import DepositConfigIn
from app.deposits.tables import DepositRow
from app.registry.policies import Policy
from lirf_client import AwaitingApproval, Client, LirfError
from lirf_core.config import DepositConfig
from lirf_core.evidence.images import Labelled
from lirf_core.recover import DepositModule
from lirf_core.tally import Tally
from tests.app.conftest import HTTP, Service, begins_with, on_one_database
from tests.app.factories import CLASSES, infer_request
from tests.app.test_purges import objects
from tests.app.trained import CAREFUL
from tests.lirf_core.factories import CPU, PREPROCESSING
from worker.measuring import Comparison, Measuring, total_loss

RUINOUS = {"learning_rate": 1.0, "lambda_kp": 0.0, "lambda_fp": 0.0, "epochs": 6}
# Within what an operator may set: no weight is 0, but next to none is left.
SLY = {"learning_rate": 0.1, "momentum": 0.99, "lambda_kp": 1e-9, "proxies": 0, "lambda_fp": 0.0, "epochs": 12}
GOOD = Loss(90, 89, 500, "evaluation images")
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


@KNOWN
@on_one_database
def test_a_scrubbed_module_that_would_ruin_an_older_deposit_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not in use yet, so nobody would notice before the purge that puts it in place."""
    scrub = worker.deposit.scrub

    def ruined(*arguments: Any) -> DepositModule:
        module = scrub(*arguments)
        with torch.no_grad():
            for weight in module.lower.parameters():
                weight.mul_(-1)
        return module

    monkeypatch.setattr(worker.deposit, "scrub", ruined)
    failure = failure_of(service, service.operator, config=CAREFUL)
    classes = f"the classes of the older deposit '{service.deposits[0]}', with the module that waits for a purge"
    assert f"evaluation images of {classes}, 100.0 % were answered correctly before" in failure
    assert "the policy allows 5." in failure


# A module that is pruned and next to untrained, while the target is as it should be: within what an operator may set.
HOLLOW = {"pruning_rate": 0.75, "lambda_pt": 1e-9, "lambda_ft": 0.0, "lambda_re": 0.0, "transfer": "deposited"}


@pytest.mark.attack
@begins_with(is_trained=True)
@on_one_database
@pytest.mark.parametrize("source", ["evaluation images", "deposit images", "proxies"])
def test_a_module_that_does_not_know_its_classes_is_not_published(service: Service, source: str) -> None:
    if source == "evaluation images":
        service.operator.upload_dataset("birds", service.archive(CLASSES, 20), purpose="evaluation")
    before = service.reader.model("birds")["revision"]
    shown = service.archive(["dodo"], 12, shown="emu" if source == "proxies" else None)
    dataset = service.operator.upload_dataset("birds", shown)
    config = {**CAREFUL, **HOLLOW, "epochs": 4, "augmentation": {"crop_padding": 0, "horizontal_flip": False}}
    deposit_id = service.operator.request_deposit("birds", dataset["id"], reason="r", config=config)["id"]
    service.work(deposit_id)
    deposit = service.reader.deposit(deposit_id)
    assert deposit["state"] == "failed"
    assert f"{source} of the deposited classes when withdrawn, " in (deposit["failure"] or "")
    assert "the policy allows 5." in (deposit["failure"] or "")
    assert service.reader.model("birds")["revision"] == before


@pytest.mark.slow
@begins_with("auk", is_trained=True, has_evaluation_set=True)
@on_one_database
def test_what_an_older_module_has_lost_adds_up_when_the_original_is_gone(service: Service) -> None:
    service.administrator.change_policy("birds", reason="r", original="destroy", max_module_loss=100)
    auk = service.deposits[0]
    with service.database.session() as session, session.begin():
        losses = session.get_one(DepositRow, auk).losses or {}
        losses = {**losses, "recovered": [{"before": 100, "after": 89, "images": 6, "source": "evaluation images"}]}
        session.execute(sa.update(DepositRow).where(DepositRow.id == auk).values(losses=losses))
    failure = failure_of(service, service.operator, config=CAREFUL, each=12)
    assert f"Since the original network the classes of the older deposit '{auk}' lose 1" in failure


def test_an_average_cannot_hide_the_end_of_one_class() -> None:
    def losses_of(images: int, classes: int, right: int) -> list[Loss]:
        """All answers were right. Now those of class 0 are right `right` times."""
        before, after = (images,) * classes, (right, *(images,) * (classes - 1))
        names = [f"c{index}" for index in range(classes)]
        measuring = Measuring(None, Labelled(torch.empty(0), torch.empty(0)), names, PREPROCESSING, CPU)
        compared = Comparison(nn.Identity(), nn.Identity(), Tally(before, before), Tally(after, before))
        return measuring.losses(compared, range(classes), NO_BOUND)

    policy = Policy("seal", False)
    for images, classes, right in ((50, 1000, 2), (50, 20, 10), (6, 10, 0)):
        [loss] = losses = losses_of(images, classes, right)
        assert loss.worst_class
        for where in (
            Losses(losses, 0.0),
            Losses([GOOD], 0.0, recovered=losses),
            Losses([GOOD], 0.0, modules={"d": losses}, module_totals={"d": 0.0}),
        ):
            where = replace(where, recovered=where.recovered or [GOOD])
            with pytest.raises(
                BeyondBounds, match=rf"The class “c0” fell from 100\.0 % to .* of {images} eval.* 20 points"
            ):
                demand_within(where, replace(policy, max_preserved_loss=5), "birds", DepositConfig())
        gone = Losses([GOOD], 0.0, loss.worst_class, recovered=[GOOD])
        with pytest.raises(BeyondBounds, match=r"“c0” fell .* since the original network; .* 40 points"):
            demand_within(gone, policy, "birds", DepositConfig())
    # Few images, or a loss that the class shares with chance, prove nothing.
    for images, classes, right in ((50, 20, 45), (1, 1000, 0), (6, 10, 4)):
        demand_within(
            Losses(losses_of(images, classes, right), 0.0, recovered=[GOOD]), policy, "birds", DepositConfig()
        )


def test_a_withdrawal_that_costs_preserved_classes_is_told() -> None:
    def accuracy(preserved: float | None) -> dict[str, Any]:
        return {"preserved_accuracy": preserved, "by_class": {"emu": preserved}}

    def warnings(recovered: float | None) -> list[str]:
        metrics = {"original": accuracy(99.7), "before": accuracy(99.7), "target": accuracy(99.5)}
        return deposit_warnings({**metrics, "recover": accuracy(recovered)}, None, ["auk"])

    assert warnings(96.0) == warnings(None) == []
    [warning] = warnings(66.4)
    assert warning.startswith("When this deposit is withdrawn, preserved classes")
    assert "66.4 % instead of 99.7 %" in warning


def test_a_short_first_try_is_told_what_was_measured_and_what_to_do() -> None:
    lost = Losses([Loss(100, 89, 400, "proxies")], 5.5, recovered=[Loss(100, 92, 162, "evaluation images")])
    with pytest.raises(BeyondBounds) as caught:
        demand_within(lost, Policy("seal", False), "birds", DepositConfig(epochs=1))
    message = str(caught.value)
    assert (
        "Of 400 proxies of the preserved classes, 89.0 % are answered as before the deposit: a loss of 11.0" in message
    )
    assert "11.0 points, of which one in 2 counts on proxies (5.5); the policy allows 5." in message
    assert "Of 162 evaluation images of the deposited classes when withdrawn, 100.0 %" in message
    assert "It trained for 1 epoch; without `epochs` a deposit trains for at least 120 steps." in message
    assert "upload held-out images of all classes as an evaluation set" in message
    # What proxies show is at least twice as much as what is lost.
    demand_within(
        Losses([Loss(100, 91, 400, "proxies")], 4.5, recovered=[GOOD]), Policy("seal", False), "b", DepositConfig()
    )


@begins_with(is_trained=True)
@on_one_database
def test_figures_of_proxies_come_with_a_plain_warning(service: Service) -> None:
    service.administrator.change_policy("birds", reason="tiny networks", max_preserved_loss=99, max_total_loss=99)
    deposit = service.reader.deposit(service.deposit(["auk", "dodo"]))
    assert deposit["metrics"] is None
    assert deposit["losses"] is not None
    [loss] = deposit["losses"]["preserved"]
    assert (loss["source"], loss["before"]) == ("proxies", 100)
    assert deposit["losses"]["total"] == pytest.approx((100 - loss["after"]) / PROXY_FACTOR, abs=0.001)
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
        demand_within(Losses(by_this, 11.0, recovered=[GOOD]), Policy("seal", False), "birds", DepositConfig())


def test_what_was_not_measured_is_beyond_every_bound() -> None:
    with pytest.raises(BeyondBounds, match="could not be measured"):
        demand_within(Losses(), Policy("seal", False), "birds", DepositConfig())
    demand_within(Losses(), Policy("seal", False, 100, 100, 100), "birds", DepositConfig())
    both = [Loss(90, 89, 500, "evaluation images"), Loss(100, 40, 60, "proxies")]
    with pytest.raises(BeyondBounds, match="Of 60 proxies of the preserved classes"):
        demand_within(Losses(both, 0.0, recovered=[GOOD]), Policy("seal", False), "birds", DepositConfig())


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
