"""If a model demands a second person, nobody can withdraw, purge or loosen the policy alone."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from app.access.service import Role
from app.approvals import lapses
from app.base.database import now
from app.datasets.tables import DatasetRow
from app.second_person import service as second_person
from app.second_person.tables import ApprovalRow
from app.vault.service import open_sealed_vault
from lirf_client import Approval, AwaitingApproval, Client, LirfError
from tests.app.conftest import HTTP, Service, begins_with
from tests.app.factories import infer_request
from tests.app.test_purges import objects

REASON = "four eyes see more than two"


@pytest.fixture
def guarded(service: Service) -> Service:
    """A model that demands a second person."""
    service.administrator.change_policy("birds", reason=REASON, needs_second_person=True)
    return service


@pytest.fixture
def second(service: Service) -> Client:
    """Another administrator."""
    return Client(service.url, service.key_of("second", Role.ADMINISTRATOR))


def request_withdrawal(service: Service, deposit_id: str, **options: float) -> Approval:
    with pytest.raises(AwaitingApproval) as awaiting:
        service.custodian.withdraw([deposit_id], holder="press", reason="the fair", **options)  # type: ignore[arg-type]
    return awaiting.value.approval


def refusal(client: Client, approval: Approval) -> str:
    with pytest.raises(LirfError) as refused:
        client.approve(approval["id"])
    return refused.value.type.removeprefix("urn:lirf:problem:")


def withdrawn(service: Service) -> list[str]:
    parameters: dict[str, list[str]] = service.reader.infer("birds", infer_request())["parameters"]
    return parameters["withdrawals"]


@begins_with("auk")
def test_a_withdrawal_waits_for_somebody_else(guarded: Service, second: Client) -> None:
    deposit_id = guarded.deposits[0]
    approval = request_withdrawal(guarded, deposit_id, expires_in_seconds=3600)
    assert (approval["state"], approval["act"], approval["requested_by"]) == ("waiting", "withdraw", "custodian")
    assert withdrawn(guarded) == []
    assert refusal(guarded.custodian, approval) == "own-request"
    assert withdrawn(guarded) == []

    approved = second.approve(approval["id"])
    assert (approved["state"], approved["decided_by"]) == ("approved", "second")
    assert withdrawn(guarded) == [approved["result_id"]]
    (opened,) = guarded.reader.withdrawals("birds")
    assert (opened["created_by"], opened["holder"]) == ("custodian", "press")
    (event,) = guarded.auditor.audit_events(action="withdrawal.opened")
    assert (event["actor"], event["details"]["requested_by"]) == ("second", "custodian")
    actions = [event["action"] for event in guarded.auditor.audit_events(subject=approval["id"])]
    assert actions == ["approval.approved", "approval.requested"]
    assert refusal(second, approval) == "already-decided"


@begins_with("auk")
def test_a_purge_waits_for_another_administrator(guarded: Service, second: Client) -> None:
    deposit_id = guarded.deposits[0]
    with pytest.raises(AwaitingApproval) as awaiting:
        guarded.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
    approval = awaiting.value.approval
    assert guarded.reader.deposit(deposit_id)["state"] == "deposited"
    assert refusal(guarded.custodian, approval) == "forbidden"
    assert refusal(guarded.administrator, approval) == "own-request"
    assert second.approve(approval["id"])["result_id"] == deposit_id
    assert guarded.reader.deposit(deposit_id)["state"] == "purged"


@begins_with("auk")
def test_nobody_can_loosen_the_rule_alone(guarded: Service, second: Client) -> None:
    with pytest.raises(AwaitingApproval) as awaiting:
        guarded.administrator.change_policy("birds", reason=REASON, needs_second_person=False)
    assert guarded.reader.policy("birds")["needs_second_person"]
    second.approve(awaiting.value.approval["id"])
    assert not guarded.reader.policy("birds")["needs_second_person"]
    guarded.custodian.withdraw([guarded.deposits[0]], holder="h", reason="r")


@begins_with("auk")
def test_a_refused_request_is_not_carried_out(guarded: Service, second: Client) -> None:
    deposit_id = guarded.deposits[0]
    refused, taken_back = (request_withdrawal(guarded, deposit_id) for _ in range(2))
    assert second.refuse(refused["id"], reason="no fair")["decision_reason"] == "no fair"
    guarded.custodian.refuse(taken_back["id"], reason="asked for by mistake")
    for approval in (refused, taken_back):
        assert refusal(second, approval) == "already-decided"
    assert withdrawn(guarded) == []
    assert guarded.reader.approvals(model="birds", waiting=True) == []
    assert {item["state"] for item in guarded.reader.approvals()} == {"refused"}


@begins_with("auk")
def test_a_request_that_nobody_approves_in_time_expires(guarded: Service, second: Client) -> None:
    approval = request_withdrawal(guarded, guarded.deposits[0])
    with guarded.database.session() as session, session.begin():
        session.execute(sa.update(ApprovalRow).values(expires_at=now() - timedelta(seconds=1)))
    assert refusal(second, approval) == "already-decided"
    assert guarded.reader.approvals()[0]["state"] == "expired"
    assert withdrawn(guarded) == []


def request_deposit(service: Service, dataset_id: str, **options: bool) -> Approval:
    with pytest.raises(AwaitingApproval) as awaiting:
        service.operator.request_deposit("birds", dataset_id, reason="the licence ended", **options)  # type: ignore[arg-type]
    return awaiting.value.approval


def lapse(service: Service, approval: Approval) -> None:
    """What the reconciler does when nobody has approved in time."""
    with service.database.session() as session, session.begin():
        in_the_past = sa.update(ApprovalRow).where(ApprovalRow.id == approval["id"])
        session.execute(in_the_past.values(expires_at=now() - timedelta(seconds=1)))
    with service.database.session() as session:
        lapses.end_lapsed(session, open_sealed_vault(service.settings))


def refuse(service: Service, approval: Approval) -> None:
    service.administrator.refuse(approval["id"], reason="not these")


@begins_with("auk")
@pytest.mark.parametrize(("end", "by"), [(refuse, "administrator"), (lapse, "reconciler")])
def test_the_deposit_set_of_a_request_that_is_not_approved_is_shredded(
    guarded: Service, end: Callable[[Service, Approval], None], by: str
) -> None:
    before = objects(guarded)
    dataset = guarded.operator.upload_dataset("birds", guarded.archive(["dodo"]))
    [name] = objects(guarded).keys() - before.keys()
    approval = request_deposit(guarded, dataset["id"])
    assert objects(guarded)[name] is not None
    end(guarded, approval)
    assert objects(guarded)[name] is None
    assert name not in open_sealed_vault(guarded.settings).objects.names()
    [event] = guarded.auditor.audit_events(action="dataset.shredded", subject=dataset["id"])
    assert event["actor"] == by
    with pytest.raises(LirfError, match="was shredded"):
        guarded.operator.request_deposit("birds", dataset["id"], reason="r")


@begins_with("auk")
@pytest.mark.parametrize("end", [refuse, lapse])
def test_a_deposit_set_that_is_kept_or_still_needed_is_not_shredded(
    guarded: Service, end: Callable[[Service, Approval], None]
) -> None:
    kept = guarded.operator.upload_dataset("birds", guarded.archive(["dodo"]))["id"]
    end(guarded, request_deposit(guarded, kept, keep_dataset=True))
    shared = guarded.operator.upload_dataset("birds", guarded.archive(["emu"]))["id"]
    first, second = request_deposit(guarded, shared), request_deposit(guarded, shared)
    end(guarded, first)
    with guarded.database.session() as session:
        shredded = dict(session.execute(sa.select(DatasetRow.id, DatasetRow.shredded_at)).all())
    assert (shredded[kept], shredded[shared]) == (None, None)
    end(guarded, second)
    with guarded.database.session() as session:
        assert session.get_one(DatasetRow, shared).shredded_at is not None


@begins_with("auk")
def test_a_request_that_has_lapsed_stays_so_if_the_clock_goes_back(
    guarded: Service, second: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval = request_withdrawal(guarded, guarded.deposits[0])
    with monkeypatch.context() as later, guarded.database.session() as session:
        later.setattr(second_person, "now", lambda: now() + timedelta(days=8))
        lapses.end_lapsed(session, open_sealed_vault(guarded.settings))
    assert refusal(second, approval) == "already-decided"
    assert guarded.reader.approvals()[0]["state"] == "expired"
    [event] = guarded.auditor.audit_events(action="approval.expired")
    assert (event["model"], event["subject"]) == ("birds", approval["id"])


@begins_with("auk")
def test_an_act_that_became_impossible_is_refused_and_still_waits(guarded: Service, second: Client) -> None:
    deposit_id = guarded.deposits[0]
    to_withdraw = request_withdrawal(guarded, deposit_id)
    with pytest.raises(AwaitingApproval) as awaiting:
        guarded.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
    second.approve(awaiting.value.approval["id"])
    assert refusal(second, to_withdraw) == "module-purged"
    assert guarded.reader.approvals(waiting=True)[0]["id"] == to_withdraw["id"]


@begins_with("auk")
def test_only_one_of_many_concurrent_approvals_succeeds(guarded: Service) -> None:
    clients = [Client(guarded.url, guarded.key_of(f"c{number}", Role.CUSTODIAN)) for number in range(5)]
    approval = request_withdrawal(guarded, guarded.deposits[0])
    outcomes: list[str] = []

    def approve(client: Client) -> None:
        try:
            client.approve(approval["id"])
            outcomes.append("approved")
        except LirfError as refused:
            outcomes.append(refused.type.removeprefix("urn:lirf:problem:"))

    threads = [threading.Thread(target=approve, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["already-decided"] * 4 + ["approved"]
    assert len(withdrawn(guarded)) == 1


@begins_with("auk")
def test_a_key_created_after_the_request_cannot_approve_it(guarded: Service) -> None:
    approval = request_withdrawal(guarded, guarded.deposits[0])
    key = guarded.administrator.create_key("accomplice", ["administrator"])
    assert refusal(Client(guarded.url, key["key"]), approval) == "own-request"
    assert withdrawn(guarded) == []


@begins_with("auk")
def test_the_request_of_a_revoked_key_cannot_be_approved(guarded: Service, second: Client) -> None:
    deposit_id = guarded.deposits[0]
    key = guarded.administrator.create_key("stolen", ["custodian"])
    with pytest.raises(AwaitingApproval) as awaiting:
        Client(guarded.url, key["key"]).withdraw([deposit_id], holder="thief", reason="none")
    guarded.administrator.revoke_key(key["id"])
    assert refusal(second, awaiting.value.approval) == "requester-gone"
    second.refuse(awaiting.value.approval["id"], reason="the key was stolen")
    assert withdrawn(guarded) == []


def test_removing_a_model_without_weights_removes_its_requests_for_approval(service: Service) -> None:
    preprocessing = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
    architecture = {"name": "resnet18-small", "width": 0.25}
    classes = ["auk", "emu"]
    service.operator.register_model("x", architecture=architecture, classes=classes, preprocessing=preprocessing)
    service.administrator.change_policy("x", reason=REASON, needs_second_person=True)
    with pytest.raises(AwaitingApproval):
        service.administrator.change_policy("x", reason=REASON, needs_second_person=False)
    service.operator.remove_unfinished_model("x")
    assert service.reader.approvals() == []


@begins_with()
def test_a_policy_can_be_changed_only_with_its_current_etag(service: Service) -> None:
    headers = {"Authorization": f"Bearer {service.key_of('boss', Role.ADMINISTRATOR)}"}
    url = f"{service.url}/v1/models/birds/policy"
    body = {"original": "seal", "needs_second_person": True, "reason": REASON}
    etag = HTTP.get(url, headers=headers).headers["ETag"]
    assert HTTP.put(url, headers=headers, json=body).status_code == 428
    for wrong in ('"77"', "x", "*", f"W/{etag}", '"' + "9" * 30 + '"'):
        assert HTTP.put(url, headers={**headers, "If-Match": wrong}, json=body).status_code == 412, wrong
    body["needs_second_person"] = False
    changed = HTTP.put(url, headers={**headers, "If-Match": etag}, json=body)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag
    again = HTTP.put(url, headers={**headers, "If-Match": etag}, json=body)
    assert (again.status_code, again.json()["type"]) == (412, "urn:lirf:problem:policy-changed")


@begins_with("auk")
def test_destroy_leaves_no_network_that_knows_deposited_classes(service: Service) -> None:
    from tests.app.test_purges import objects

    first = service.deposits[0]
    assert (
        len([key for key in objects(service).values() if key is None]) == 2
    )  # the deposit set, and the rows until then
    service.administrator.change_policy("birds", reason=REASON, original="destroy")
    assert len([key for key in objects(service).values() if key is None]) == 3  # and revision 0, at once
    second = service.deposit(["dodo"])
    (finished,) = service.auditor.audit_events(subject=second, action="deposit.finished")
    assert finished["details"]["destroyed_revisions"] == [1]
    (changed,) = service.auditor.audit_events(action="model.policy_changed")
    assert changed["details"]["destroyed_revisions"] == [0]
    assert changed["details"]["after"] == {**changed["details"]["before"], "original": "destroy"}
    service.custodian.withdraw([first, second], holder="h", reason="r")
    assert len(withdrawn(service)) == 1
