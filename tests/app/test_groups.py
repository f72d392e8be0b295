"""One request makes a deposit of each group of its classes."""

import pytest

from app.access.service import Role
from lirf_client import AwaitingApproval, Client, Deposit, LirfError
from lirf_core import config as configurations
from tests.app.conftest import Service, begins_with, on_one_database
from tests.app.factories import infer_request
from tests.app.service import allow_every_loss
from tests.app.states import without_training_attacks
from tests.app.test_console import signed_in
from tests.app.test_scrubbing import has_only_live_objects, is_shredded, module_object, scrubbed_object
from worker.examination import examine
from worker.hardening import harden_target

GROUPS = [["emu"], ["auk", "dodo"]]


def in_groups(service: Service, groups: list[list[str]], **options: object) -> list[Deposit]:
    """The finished deposits of one request, in the order of its groups."""
    classes = [name for group in groups for name in group]
    deposit_id = service.deposit(classes, groups=groups, **options)
    return [service.reader.deposit(group["deposit"]) for group in service.reader.deposit(deposit_id)["groups"]]


def refusal(service: Service, classes: list[str], groups: list[list[str]], **options: object) -> LirfError:
    with pytest.raises(LirfError) as refused:
        service.queue(classes, groups=groups, **options)
    return refused.value


@begins_with(has_evaluation_set=True)
def test_each_group_is_withdrawn_restored_and_purged_by_itself(service: Service) -> None:
    first, second = in_groups(service, GROUPS)

    assert [one["classes"] for one in (first, second)] == GROUPS
    assert first["groups"] == second["groups"]
    assert {one["revision"] for one in (first, second)} == {1}
    assert {one["state"] for one in (first, second)} == {"deposited"}
    held = {one["name"]: one["deposit_id"] for one in service.reader.classes("birds") if one["deposit_id"]}
    assert held == {"emu": first["id"], "auk": second["id"], "dodo": second["id"]}

    withdrawal = service.custodian.withdraw([second["id"]], holder="h", reason="r")
    assert service.reader.infer("birds", infer_request())["parameters"]["withdrawals"] == [withdrawal["id"]]
    service.custodian.revoke(withdrawal["id"])
    service.custodian.restore(first["id"], reason="r")
    service.custodian.end_restoration(first["id"])
    service.administrator.purge(second["id"], classes=["auk", "dodo"], reason="r")
    assert [service.reader.deposit(one["id"])["state"] for one in (first, second)] == ["deposited", "purged"]
    service.custodian.withdraw([first["id"]], holder="h", reason="r")


@begins_with(has_evaluation_set=True)
def test_what_is_measured_of_a_group_is_of_its_own_classes(service: Service) -> None:
    first, second = in_groups(service, GROUPS)

    for one, other in ((first, second), (second, first)):
        assert one["metrics"]
        assert set(one["metrics"]["recover"]["by_class"]) == {"heron", "kiwi", *one["classes"]}
        assert set(one["metrics"]["older_modules"]) == {other["id"]}
        assert one["losses"]
        assert sum(loss["images"] for loss in one["losses"]["recovered"]) == 6 * len(one["classes"])
        assert list(one["losses"]["scrubs"]) == [one["id"]]
    [measurement] = service.reader.measurements("birds")
    assert [view["deposits"] for view in measurement["views"]] == [
        [],
        [first["id"]],
        [second["id"]],
        [first["id"], second["id"]],
    ]


@begins_with()
def test_a_purge_replaces_the_modules_of_the_other_groups_which_know_the_classes(service: Service) -> None:
    first, second, third = in_groups(service, [["auk"], ["dodo"], ["emu"]])
    assert [one["scrubbed_module"] and one["scrubbed_module"]["forgets"] for one in (first, second, third)] == [2, 2, 2]
    knew = [module_object(service, one["id"]) for one in (first, second, third)]
    waited = [scrubbed_object(service, one["id"]) for one in (first, third)]

    assert service.administrator.purge(second["id"], classes=["dodo"], reason="r")["scrubbed"] == [
        first["id"],
        third["id"],
    ]
    assert [module_object(service, one["id"]).id for one in (first, third)] == [one.id for one in waited]
    assert all(is_shredded(service, one) for one in knew)
    assert [service.reader.deposit(one["id"])["scrubbed_module"] for one in (first, third)] == [None, None]
    assert has_only_live_objects(service)
    assert service.administrator.purge(third["id"], classes=["emu"], reason="r")["scrubbed"] == []
    service.custodian.withdraw([first["id"]], holder="h", reason="r")


@begins_with("auk")
def test_groups_follow_older_deposits_and_are_followed_by_later_ones(service: Service) -> None:
    [oldest] = service.deposits
    first, second = in_groups(service, [["dodo"], ["emu"]])
    later = service.deposit(["heron"])

    forgets = [service.reader.deposit(one)["scrubbed_module"] for one in (oldest, first["id"], second["id"], later)]
    assert [one and one["forgets"] for one in forgets] == [3, 2, 2, None]
    assert service.administrator.purge(later, classes=["heron"], reason="r")["scrubbed"] == [
        oldest,
        first["id"],
        second["id"],
    ]
    # All of them have forgotten all later classes by now.
    assert service.administrator.purge(first["id"], classes=["dodo"], reason="r")["scrubbed"] == []
    service.custodian.withdraw([oldest, second["id"]], holder="h", reason="r")
    assert has_only_live_objects(service)


@begins_with("auk")
def test_by_the_policy_the_scrubbed_modules_are_in_use_at_once(service: Service) -> None:
    service.administrator.change_policy("birds", scrub="deposit", reason="r")
    made = in_groups(service, [["dodo"], ["emu"]])
    assert [one["scrubbed_module"] for one in made] == [None, None]
    scrubbed = [event for event in service.auditor.audit_events() if event["action"] == "module.scrubbed"]
    assert {event["subject"]: (event["details"] or {})["of_classes"] for event in scrubbed[:3]} == {
        service.deposits[0]: ["dodo", "emu"],
        made[0]["id"]: ["emu"],
        made[1]["id"]: ["dodo"],
    }
    assert service.administrator.purge(made[1]["id"], classes=["emu"], reason="r")["scrubbed"] == []
    assert has_only_live_objects(service)


@begins_with()
def test_until_the_job_ends_its_own_deposit_holds_all_groups(service: Service) -> None:
    deposit_id = service.queue(["auk", "dodo"], groups=[["dodo"], ["auk"]])
    queued = service.reader.deposit(deposit_id)
    own, other = queued["groups"]
    assert queued["classes"] == ["auk", "dodo"]
    assert own == {"deposit": deposit_id, "classes": ["dodo"]}
    assert other["classes"] == ["auk"]
    with pytest.raises(LirfError, match=f"deposit '{deposit_id}', which makes it, is queued") as unknown:
        service.reader.deposit(other["deposit"])
    assert unknown.value.status == 404

    service.operator.cancel(deposit_id)
    assert service.reader.deposit(deposit_id)["groups"] == queued["groups"]
    assert [one["id"] for one in service.reader.deposits("birds")] == [deposit_id]
    assert service.deposit(["auk"])  # nothing holds it


@begins_with()
def test_the_audit_names_the_job_of_each_deposit(service: Service) -> None:
    first, second = in_groups(service, GROUPS)
    events = list(service.auditor.audit_events())
    [request] = [event for event in events if event["action"] == "deposit.requested"]
    finished = {event["subject"]: event["details"] or {} for event in events if event["action"] == "deposit.finished"}
    assert request["subject"] == first["id"]
    assert (request["details"] or {})["groups"] == GROUPS
    assert [finished[one["id"]]["classes"] for one in (first, second)] == GROUPS
    assert finished[second["id"]]["made_with"] == first["id"]
    assert service.auditor.verify_audit()["is_intact"]


@begins_with(is_trained=True, has_evaluation_set=True)
def test_each_group_is_examined_and_certified_on_its_own_classes(service: Service) -> None:
    allow_every_loss(service.database, "birds")
    for one in in_groups(service, GROUPS):
        [evidence] = service.reader.evidence_of(one["id"])
        with without_training_attacks():
            examine(service.worker, evidence["id"])
        found = service.reader.evidence(evidence["id"])
        assert found["state"] == "finished", found["failure"]
        assert service.auditor.certificate(evidence["id"])


@begins_with()
def test_a_target_of_groups_is_hardened_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configurations, "MIN_HARDENING_STEPS", 4)
    monkeypatch.setattr(configurations, "MAX_HARDENING_STEPS", 4)
    service.administrator.change_policy("birds", hardening="served", reason="r")
    first, second = in_groups(service, GROUPS)
    [hardening] = service.reader.hardenings("birds")
    assert hardening["deposit"] == first["id"]
    assert harden_target(service.worker, hardening["id"])
    assert service.reader.hardening(hardening["id"])["is_served"]
    service.administrator.purge(second["id"], classes=["auk", "dodo"], reason="r")
    service.custodian.withdraw([first["id"]], holder="h", reason="r")
    assert service.reader.infer("birds", infer_request())["parameters"]["withdrawals"]


@on_one_database
@begins_with()
@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([["auk"], ["auk", "dodo"]], "names 'auk' more than once"),
        ([["auk"]], "images of 'dodo', which no group names"),
        ([["auk"], ["dodo"], ["emu"]], "name 'emu', of which the deposit set has no images"),
    ],
)
def test_groups_name_each_class_of_the_deposit_set_once(service: Service, groups: list[list[str]], says: str) -> None:
    problem = refusal(service, ["auk", "dodo"], groups)
    assert problem.type == "urn:lirf:problem:groups-differ"
    assert says in str(problem)


@on_one_database
@begins_with()
def test_a_group_has_a_class_and_single_images_have_no_groups(service: Service) -> None:
    assert refusal(service, ["auk"], [["auk"], []]).status == 422
    assert refusal(service, ["auk"], []).status == 422
    assert "no groups" in str(refusal(service, ["auk"], [["auk"]], kind="samples"))
    assert refusal(service, ["auk"], [["auk"], ["cat"]]).type == "urn:lirf:problem:unknown-class"
    assert service.reader.deposit(service.deposit(["auk"], groups=[["auk"]]))["groups"] == []


@begins_with()
def test_a_request_for_groups_waits_for_another_person(service: Service) -> None:
    second = Client(service.url, service.key_of("second", Role.OPERATOR))
    service.administrator.change_policy("birds", needs_second_person=True, reason="r")
    with pytest.raises(AwaitingApproval) as awaiting:
        service.queue(["auk", "dodo", "emu"], groups=GROUPS)
    deposit_id = second.approve(awaiting.value.approval["id"])["result_id"]
    assert deposit_id
    service.work(deposit_id)
    assert [group["classes"] for group in service.reader.deposit(deposit_id)["groups"]] == GROUPS


@begins_with()
def test_the_console_shows_the_deposits_of_a_job(service: Service) -> None:
    job = service.queue(["auk", "dodo", "emu"], groups=GROUPS)
    with signed_in(service) as browser:
        assert "Its job makes 2 deposits: emu; auk, dodo." in browser.get(f"/console/deposits/{job}").text
        service.work(job)
        own, other = (group["deposit"] for group in service.reader.deposit(job)["groups"])
        page = browser.get(f"/console/deposits/{own}").text
        assert f'in one job with <a href="/console/deposits/{other}">the deposit of auk, dodo</a>.' in page
        assert "Its module still knows auk, dodo, which other deposits hold." in page
        page = browser.get(f"/console/deposits/{other}").text
        assert f'in one job with <a href="/console/deposits/{own}">the deposit of emu</a>.' in page
