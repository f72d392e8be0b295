"""A rebase makes the target and all outstanding modules anew, and every deposit keeps its id."""

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

import worker.deposit
from app.access.service import Role
from app.approvals import lapses
from app.base.database import now
from app.datasets.tables import DatasetRow
from app.deposits.tables import DepositRow
from app.jobs.tables import CheckpointRow
from app.second_person.tables import ApprovalRow
from lirf_client import AwaitingApproval, Client, LirfError, Rebase
from lirf_core import config as configurations
from lirf_core.network import digest
from tests.app.conftest import Service, begins_with, on_one_database
from tests.app.earlier_version import store_as_earlier_version
from tests.app.factories import infer_request
from tests.app.service import allow_every_loss
from tests.app.states import without_training_attacks
from tests.app.test_console import signed_in
from tests.app.test_scrubbing import has_only_live_objects, is_shredded, module_object, scrubbed_object
from worker.examination import examine
from worker.hardening import harden_target
from worker.rebase import rebase_model

CONFIG = {"epochs": 1, "batch_size": 4, "proxies": 0, "augmentation": {"crop_padding": 0, "horizontal_flip": False}}


def queue(service: Service, classes: list[str] | None = None, **options: Any) -> str:
    """A queued rebase. classes: whose images are uploaded for it; None: those that were kept."""
    by: Client = options.pop("by", service.operator)
    if classes:
        options["dataset_id"] = by.upload_dataset("birds", service.archive(classes))["id"]
    return by.request_rebase("birds", **{"reason": "too much was lost", "config": CONFIG, **options})["id"]


def rebased(service: Service, classes: list[str] | None = None, **options: Any) -> Rebase:
    rebase_id = queue(service, classes, **options)
    assert rebase_model(service.worker, rebase_id)
    return service.reader.rebase(rebase_id)


def refusal(service: Service, classes: list[str] | None = None, **options: Any) -> LirfError:
    with pytest.raises(LirfError) as refused:
        queue(service, classes, **options)
    return refused.value


def is_set_shredded(service: Service, dataset_id: str | None) -> bool:
    with service.database.session() as session:
        return session.get_one(DatasetRow, dataset_id).shredded_at is not None


@begins_with("auk", "dodo")
def test_all_modules_and_the_target_are_made_anew_from_the_original(service: Service) -> None:
    first, second = service.deposits
    before = [module_object(service, one) for one in (first, second)] + [scrubbed_object(service, first)]
    withdrawal = service.custodian.withdraw([first], holder="h", reason="r")
    rebase = rebased(service, ["auk", "dodo"])

    assert (rebase["state"], rebase["failure"]) == ("finished", None)
    assert (rebase["revision"], rebase["deposits"]) == (3, [first, second])
    assert all(is_shredded(service, one) for one in before)
    assert has_only_live_objects(service)
    assert is_set_shredded(service, rebase["dataset_id"])
    made = [service.reader.deposit(one) for one in (first, second)]
    assert [(one["revision"], one["module_revision"]) for one in made] == [(1, 3), (2, 3)]
    assert [one["state"] for one in made] == ["deposited", "deposited"]
    answer = service.reader.infer("birds", infer_request())["parameters"]
    assert answer == {"revision": 3, "withdrawals": [withdrawal["id"]]}
    [event] = [one for one in service.auditor.audit_events() if one["action"] == "rebase.finished"]
    assert set((event["details"] or {})["deposits"]) == {first, second}
    assert service.auditor.verify_audit()["is_intact"]


@begins_with("auk", "dodo")
def test_afterwards_each_module_knows_the_others_until_one_is_purged(service: Service) -> None:
    first, second = service.deposits
    rebased(service, ["auk", "dodo"])
    forgets = [service.reader.deposit(one)["scrubbed_module"] for one in (first, second)]
    assert [one and one["forgets"] for one in forgets] == [1, 1]

    third = service.deposit(["emu"])
    assert [(service.reader.deposit(one)["scrubbed_module"] or {})["forgets"] for one in (first, second)] == [2, 2]
    assert service.administrator.purge(first, classes=["auk"], reason="r")["scrubbed"] == [second]
    assert service.administrator.purge(third, classes=["emu"], reason="r")["scrubbed"] == []
    service.custodian.withdraw([second], holder="h", reason="r")
    assert has_only_live_objects(service)


@begins_with()
def test_kept_deposit_sets_are_used_and_stay(service: Service) -> None:
    first = service.deposit(["auk"], keep_dataset=True)
    second = service.deposit(["dodo", "emu"], keep_dataset=True, groups=[["dodo"], ["emu"]])
    rebase = rebased(service)
    others = [group["deposit"] for group in service.reader.deposit(second)["groups"]]
    assert rebase["state"] == "finished", rebase["failure"]
    assert rebase["deposits"] == [first, *others]
    assert rebase["dataset_id"] is None
    with service.database.session() as session:
        sets = [session.get_one(DepositRow, one).dataset_id for one in (first, second)]
    assert not any(is_set_shredded(service, dataset_id) for dataset_id in sets)
    service.custodian.withdraw([first, *others], holder="h", reason="r")


@begins_with("auk", "dodo")
def test_a_new_target_is_made_from_the_original(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    deposit = worker.deposit.deposit

    def noting(original: Any, *arguments: Any) -> Any:
        started.append(digest(original))
        return deposit(original, *arguments)

    monkeypatch.setattr(worker.deposit, "deposit", noting)
    rebased(service, ["auk", "dodo"])
    third = service.deposit(["emu"], by=service.operator)
    assert third
    with service.database.session() as session:
        assert session.get_one(DepositRow, third).revision == 4
    assert len(set(started)) == 2  # the rebase from the original, the deposit from the target of the rebase


@begins_with("auk", "dodo", is_trained=True, has_evaluation_set=True)
def test_figures_losses_and_evidence_are_of_the_new_modules(service: Service) -> None:
    allow_every_loss(service.database, "birds")
    first, second = service.deposits
    before = service.reader.deposit(first)["metrics"]
    rebase = rebased(service, ["auk", "dodo"])
    assert rebase["state"] == "finished", rebase["failure"]
    made = service.reader.deposit(first)
    assert made["metrics"] != before
    assert made["figures"]
    assert (made["figures"]["revision"], made["figures"]["is_current"]) == (3, True)
    assert made["losses"]
    assert made["losses"]["modules"] == {}
    measurement = service.reader.measurements("birds")[0]
    assert [view["deposits"] for view in measurement["views"]] == [[], [first], [second], [first, second]]
    [evidence] = service.reader.evidence_of(second)
    with without_training_attacks():
        examine(service.worker, evidence["id"])
    assert service.auditor.certificate(evidence["id"])


@begins_with("auk", "dodo", is_trained=True, has_evaluation_set=True)
def test_a_rebase_beyond_the_bounds_changes_nothing(service: Service) -> None:
    before = [module_object(service, one).id for one in service.deposits]
    service.administrator.change_policy("birds", max_module_loss=0.0, max_preserved_loss=0.0, reason="r")
    rebase = rebased(service, ["auk", "dodo"], config={**CONFIG, "learning_rate": 5.0}, by=service.administrator)
    assert rebase["state"] == "failed"
    assert "nothing was changed" in (rebase["failure"] or "")
    assert [module_object(service, one).id for one in service.deposits] == before
    assert service.reader.model("birds")["revision"] == 2
    assert has_only_live_objects(service)


@begins_with(is_trained=True, has_evaluation_set=True)
@pytest.mark.parametrize("has_held_out", [True, False])
def test_wrong_images_that_would_forget_less_are_refused(service: Service, has_held_out: bool) -> None:
    allow_every_loss(service.database, "birds")
    forgetting = {"epochs": 40, "learning_rate": 0.05}
    deposits = [service.deposit([name], each=12, config=forgetting) for name in ("auk", "dodo")]
    for deposit_id in deposits:
        metrics = service.reader.deposit(deposit_id)["metrics"]
        assert metrics
        assert metrics["target"]["deposited_accuracy"] == 0.0
    if not has_held_out:
        with service.database.session() as session, session.begin():
            session.execute(sa.update(DatasetRow).values(shredded_at=now()).where(DatasetRow.purpose == "evaluation"))
    shown = None if not has_held_out else "kiwi"
    dataset = service.operator.upload_dataset("birds", service.archive(["auk", "dodo"], each=12, shown=shown))
    rebase = rebased(service, dataset_id=dataset["id"], config={**CONFIG, "learning_rate": 1e-4})
    assert rebase["state"] == "failed"
    assert "Check that the images of the rebase show the deposited classes" in (rebase["failure"] or "")
    assert "the target in service answers 0.0 %" in (rebase["failure"] or "")
    assert has_only_live_objects(service)


@begins_with("auk", "dodo")
def test_by_the_policy_scrubbed_modules_are_in_use_at_once(service: Service) -> None:
    service.administrator.change_policy("birds", scrub="deposit", reason="r")
    rebased(service, ["auk", "dodo"])
    assert [service.reader.deposit(one)["scrubbed_module"] for one in service.deposits] == [None, None]
    purged = service.administrator.purge(service.deposits[0], classes=["auk"], reason="r")
    assert purged["scrubbed"] == []
    assert has_only_live_objects(service)


@begins_with("auk")
def test_a_single_deposit_is_made_anew_and_hardened(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configurations, "MIN_HARDENING_STEPS", 4)
    monkeypatch.setattr(configurations, "MAX_HARDENING_STEPS", 4)
    service.administrator.change_policy("birds", hardening="served", reason="r")
    rebase = rebased(service, ["auk"])
    assert rebase["state"] == "finished", rebase["failure"]
    assert not is_set_shredded(service, rebase["dataset_id"])  # the hardening needs it
    [hardening] = service.reader.hardenings("birds")
    assert harden_target(service.worker, hardening["id"])
    assert service.reader.hardening(hardening["id"])["is_served"]
    assert is_set_shredded(service, rebase["dataset_id"])


@begins_with("auk", "dodo")
@pytest.mark.parametrize("change", ["a deposit", "a purge", "a policy"])
def test_a_rebase_does_not_overwrite_what_changed_meanwhile(
    service: Service, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    measure = worker.deposit.measure
    rebase_id = queue(service, ["auk", "dodo"])

    def changed_after(*arguments: Any) -> Any:
        measured = measure(*arguments)
        monkeypatch.setattr(worker.deposit, "measure", measure)
        if change == "a deposit":
            service.deposit(["emu"])
        elif change == "a purge":
            service.administrator.purge(service.deposits[0], classes=["auk"], reason="r")
        else:
            service.administrator.change_policy("birds", scrub="deposit", reason="r")
        return measured

    monkeypatch.setattr(worker.deposit, "measure", changed_after)
    rebase_model(service.worker, rebase_id)
    state = service.reader.rebase(rebase_id)["state"]
    assert state == ("cancelled" if change == "a purge" else "queued")
    assert has_only_live_objects(service)
    if state == "queued":
        rebase_model(service.worker, rebase_id)
    rebase = service.reader.rebase(rebase_id)
    if change == "a policy":
        assert rebase["state"] == "finished", rebase["failure"]
    elif change == "a deposit":
        assert rebase["state"] == "failed"
        assert "emu" in (rebase["failure"] or "")
    assert has_only_live_objects(service)


@begins_with("auk", "dodo")
def test_a_model_of_an_earlier_version_is_rebased(service: Service) -> None:
    """Its upper part has all rows, and its modules have none."""
    store_as_earlier_version(service.database, service.worker.vault)
    rebase = rebased(service, ["auk", "dodo"])
    assert rebase["state"] == "finished", rebase["failure"]
    service.custodian.withdraw(service.deposits, holder="h", reason="r")
    assert has_only_live_objects(service)


@begins_with("auk", "dodo")
def test_no_original_is_left_by_a_rebase_that_the_policy_overtakes(service: Service) -> None:
    rebase_id = queue(service, ["auk", "dodo"])
    service.administrator.change_policy("birds", original="destroy", reason="r")
    assert service.reader.rebase(rebase_id)["state"] == "cancelled"
    assert has_only_live_objects(service)


@begins_with()
def test_images_that_another_job_or_deposit_needs_stay(service: Service) -> None:
    service.administrator.change_policy("birds", hardening="served", reason="r")
    deposit_id = service.deposit(["auk"])
    [hardening] = service.reader.hardenings("birds")  # it holds the deposit set, which is not kept
    assert refusal(service).type == "urn:lirf:problem:images-missing"
    assert refusal(service, dataset_id=hardening["dataset_id"]).type == "urn:lirf:problem:dataset-in-use"
    service.operator.cancel_hardening(hardening["id"])

    kept = service.operator.upload_dataset("birds", service.archive(["auk"]))["id"]
    with service.database.session() as session, session.begin():
        row = session.get_one(DepositRow, deposit_id)
        row.dataset_id, row.keeps_dataset = kept, True
    service.operator.cancel_rebase(queue(service, dataset_id=kept))
    assert not is_set_shredded(service, kept)


@begins_with("auk")
def test_a_lapsed_request_gives_its_images_up(service: Service) -> None:
    service.administrator.change_policy("birds", needs_second_person=True, reason="r")
    with pytest.raises(AwaitingApproval) as awaiting:
        queue(service, ["auk"])
    with service.database.session() as session:
        with session.begin():
            session.execute(sa.update(ApprovalRow).values(expires_at=now() - timedelta(seconds=1)))
        lapses.end_lapsed(session, service.worker.vault)
    assert is_set_shredded(service, awaiting.value.approval["wish"]["dataset_id"])


@begins_with("auk", "dodo")
def test_restored_classes_stay_on_and_settings_are_those_of_the_newest_deposit(service: Service) -> None:
    service.custodian.restore(service.deposits[0], reason="r")
    dataset = service.operator.upload_dataset("birds", service.archive(["auk", "dodo"]))
    rebase_id = service.operator.request_rebase("birds", dataset_id=dataset["id"], reason="r", keep_dataset=True)["id"]
    settings = service.reader.rebase(rebase_id)["config"]
    assert settings == service.reader.deposit(service.deposits[1])["config"]
    assert not settings["augmentation"]["horizontal_flip"]
    assert rebase_model(service.worker, rebase_id)
    states = {one["name"]: one["state"] for one in service.reader.classes("birds")}
    assert (states["auk"], states["dodo"]) == ("restored", "deposited")
    assert not is_set_shredded(service, dataset["id"])


@begins_with("auk", "dodo")
def test_a_deposit_does_not_go_on_from_a_checkpoint_of_before_a_rebase(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.settings.checkpoint_seconds = 0
    rebase_id, deposit_id = queue(service, ["auk", "dodo"]), service.queue(["emu"], config={"epochs": 3})
    deposit = worker.deposit.deposit

    def rebased_during(original: Any, lesson: Any, run: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(worker.deposit, "deposit", deposit)

        def on_step(step: Any) -> None:
            if step.step == 2:
                assert rebase_model(service.worker, rebase_id)
            run.on_step(step)

        return deposit(original, lesson, replace(run, on_step=on_step), *arguments)

    monkeypatch.setattr(worker.deposit, "deposit", rebased_during)
    service.work(deposit_id)
    assert service.reader.deposit(deposit_id)["state"] == "queued"
    with service.database.session() as session:
        assert not session.scalars(sa.select(CheckpointRow)).all()
    service.work(deposit_id)
    assert service.reader.deposit(deposit_id)["revision"] == 4


@begins_with("auk", "dodo")
def test_a_deposit_that_runs_while_a_rebase_is_published_begins_anew(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = worker.deposit.measure
    rebase_id, deposit_id = queue(service, ["auk", "dodo"]), service.queue(["emu"])

    def rebased_after(*arguments: Any) -> Any:
        measured = measure(*arguments)
        monkeypatch.setattr(worker.deposit, "measure", measure)
        assert rebase_model(service.worker, rebase_id)
        return measured

    monkeypatch.setattr(worker.deposit, "measure", rebased_after)
    service.work(deposit_id)
    assert service.reader.rebase(rebase_id)["state"] == "finished"
    assert service.reader.deposit(deposit_id)["state"] == "queued"
    service.work(deposit_id)
    assert service.reader.deposit(deposit_id)["revision"] == 4
    service.custodian.withdraw([*service.deposits, deposit_id], holder="h", reason="r")
    assert has_only_live_objects(service)


@begins_with("auk", "dodo")
def test_a_purge_ends_a_running_rebase_and_destroys_its_checkpoints(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They know the purged classes."""
    service.settings.checkpoint_seconds = 0
    purged, held = threading.Event(), threading.Event()
    store = worker.deposit._store

    def holding(*arguments: Any) -> Any:
        held.set()
        assert purged.wait(30)
        return store(*arguments)

    monkeypatch.setattr(worker.deposit, "_store", holding)
    rebase_id = queue(service, ["auk", "dodo"])
    thread = threading.Thread(target=rebase_model, args=(service.worker, rebase_id))
    thread.start()
    assert held.wait(30)
    with service.database.session() as session:
        assert session.scalars(sa.select(CheckpointRow)).all()
    service.administrator.purge(service.deposits[0], classes=["auk"], reason="r")
    purged.set()
    thread.join()
    assert service.reader.rebase(rebase_id)["state"] == "cancelled"
    with service.database.session() as session:
        assert not session.scalars(sa.select(CheckpointRow)).all()
    assert has_only_live_objects(service)


@begins_with("auk")
def test_a_rebase_waits_for_another_person_if_the_policy_says_so(service: Service) -> None:
    second = Client(service.url, service.key_of("second", Role.OPERATOR))
    service.administrator.change_policy("birds", needs_second_person=True, reason="r")
    with pytest.raises(AwaitingApproval) as awaiting:
        queue(service, ["auk"])
    rebase_id = second.approve(awaiting.value.approval["id"])["result_id"]
    assert rebase_id
    assert rebase_model(service.worker, rebase_id)
    assert service.reader.rebase(rebase_id)["state"] == "finished"

    with pytest.raises(AwaitingApproval) as awaiting:
        queue(service, ["auk"])
    wish = awaiting.value.approval["wish"]
    second.refuse(awaiting.value.approval["id"], reason="r")
    assert is_set_shredded(service, wish["dataset_id"])


@begins_with("auk")
def test_a_rebase_can_be_cancelled_and_only_one_waits(service: Service) -> None:
    rebase_id = queue(service, ["auk"])
    assert refusal(service, ["auk"]).type == "urn:lirf:problem:rebase-unfinished"
    dataset_id = service.reader.rebase(rebase_id)["dataset_id"]
    assert dataset_id
    with pytest.raises(LirfError, match="unfinished job uses") as used:
        service.operator.discard_dataset("birds", dataset_id)
    assert used.value.status == 409
    assert service.operator.cancel_rebase(rebase_id)["state"] == "cancelled"
    assert is_set_shredded(service, dataset_id)
    with pytest.raises(LirfError) as ended:
        service.operator.cancel_rebase(rebase_id)
    assert ended.value.type == "urn:lirf:problem:rebase-ended"
    assert not rebase_model(service.worker, rebase_id)


@begins_with("auk", "dodo")
def test_what_cannot_be_rebased_is_refused_with_the_reason(service: Service) -> None:
    def refused(classes: list[str] | None = None) -> str:
        problem = refusal(service, classes)
        return f"{problem.type.removeprefix('urn:lirf:problem:')}: {problem}"

    assert refused().startswith("images-missing: The images of 'auk', 'dodo' were not kept")
    assert "images-missing" in refused(["auk"])
    assert "images of 'dodo'" in refused(["auk"])
    assert refused(["auk", "dodo", "emu"]).startswith("images-differ")
    waiting = service.queue(["emu"])
    assert waiting in refused(["auk", "dodo"])
    service.operator.cancel(waiting)
    service.administrator.purge(service.deposits[1], classes=["dodo"], reason="r")
    assert "original network of model 'birds' was destroyed" in refused(["auk"])
    service.administrator.purge(service.deposits[0], classes=["auk"], reason="r")
    assert "has no outstanding deposit" in refused(["auk"])


@begins_with()
def test_the_console_rebases_a_model_and_stops_that(service: Service) -> None:
    for name in ("auk", "dodo"):
        service.deposit([name], keep_dataset=True)
    with signed_in(service, Role.OPERATOR) as browser:
        page = browser.get("/console/models/birds").text
        assert "Rebase with the deposit sets that were kept" in page
        answer = browser.post("/console/models/birds/rebases", data={"reason": "ten deposits"})
        assert answer.status_code == 200
        [waiting] = service.reader.rebases("birds")
        page = browser.get("/console/models/birds").text
        assert f"Rebase {waiting['id']}: queued" in page
        browser.post(f"/console/rebases/{waiting['id']}/cancellation")
        assert service.reader.rebase(waiting["id"])["state"] == "cancelled"
        page = browser.get("/console/models/birds").text
        assert f"Rebase {waiting['id']}: cancelled" in page
        assert "rebase cancelled" in page
        rebased(service)
        assert "rebase finished" in browser.get("/console/models/birds").text
        deposit_id = service.reader.deposits("birds")[0]["id"]
        page = browser.get(f"/console/deposits/{deposit_id}").text
        assert "module made anew by a rebase" in page
        assert "A rebase made its module anew, with revision 3." in page


@on_one_database
@begins_with()
def test_unknown_rebases_are_named(service: Service) -> None:
    for call in (service.reader.rebase, service.operator.cancel_rebase):
        with pytest.raises(LirfError) as unknown:
            call("nothing")
        assert unknown.value.type == "urn:lirf:problem:unknown-rebase"
    assert service.reader.rebases("birds") == []
