"""Restored classes answer without a withdrawal. When the restoration ends, they are deposited again at once."""

import threading

import pytest

from lirf_client import AwaitingApproval, Client, LirfError
from tests.app.conftest import Service, begins_with
from tests.app.factories import infer_request

REASON = "the licence was bought for all time"


def refusal(client: Client, method: str, deposit_id: str, **options: object) -> str:
    with pytest.raises(LirfError) as refused:
        getattr(client, method)(deposit_id, **options)
    return refused.value.type.removeprefix("urn:lirf:problem:")


def answers(service: Service) -> list[dict[str, object]]:
    outputs: list[dict[str, object]] = service.reader.infer("birds", infer_request(3))["outputs"]
    return outputs


@begins_with("auk", "dodo")
def test_restored_class_answers_like_a_withdrawn_one_without_a_withdrawal(service: Service) -> None:
    deposit_id, other = service.deposits
    masked = answers(service)
    withdrawal = service.custodian.withdraw([deposit_id], holder="h", reason="r")
    withdrawn = answers(service)
    service.custodian.revoke(withdrawal["id"])
    assert answers(service) == masked != withdrawn

    restored = service.custodian.restore(deposit_id, reason=REASON)

    assert (restored["classes"], restored["restored_by"], restored["reason"]) == (["auk"], "custodian", REASON)
    assert answers(service) == withdrawn
    both = service.custodian.withdraw([other], holder="h", reason="r")  # other deposits can be lent
    assert answers(service) != withdrawn
    lent = service.reader.infer("birds", infer_request(3, withdrawal=both["id"]))
    assert lent["outputs"] == answers(service)
    service.custodian.revoke(both["id"])

    service.custodian.end_restoration(deposit_id)
    assert answers(service) == masked
    assert refusal(service.custodian, "end_restoration", deposit_id) == "not-restored"


@begins_with("auk")
def test_classes_deposit_and_audit_say_who_restored_and_why(service: Service) -> None:
    deposit_id = service.deposits[0]
    service.custodian.restore(deposit_id, reason=REASON)
    auk = next(one for one in service.auditor.classes("birds") if one["name"] == "auk")
    assert (auk["state"], auk["by"], auk["reason"]) == ("restored", "custodian", REASON)
    deposit = service.reader.deposit(deposit_id)
    assert (deposit["state"], deposit["restored_by"], deposit["restore_reason"]) == ("deposited", "custodian", REASON)
    service.custodian.end_restoration(deposit_id)
    auk = next(one for one in service.auditor.classes("birds") if one["name"] == "auk")
    assert (auk["state"], auk["by"]) == ("deposited", "operator")
    assert service.reader.deposit(deposit_id)["restored_at"] is None
    ended, restored, *_ = service.auditor.audit_events(subject=deposit_id)
    assert (ended["action"], ended["details"]) == ("deposit.restoration_ended", {"classes": ["auk"]})
    assert (restored["action"], restored["reason"]) == ("deposit.restored", REASON)


@begins_with("auk")
def test_what_is_restored_is_not_withdrawn_purged_restored_or_deposited(service: Service) -> None:
    deposit_id = service.deposits[0]
    withdrawal = service.custodian.withdraw([deposit_id], holder="h", reason="r")
    service.custodian.restore(deposit_id, reason=REASON)
    assert refusal(service.custodian, "restore", deposit_id, reason=REASON) == "restored"
    assert refusal(service.administrator, "purge", deposit_id, classes=["auk"], reason=REASON) == "restored"
    with pytest.raises(LirfError, match=f"DELETE /v1/deposits/{deposit_id}/restoration"):
        service.custodian.withdraw([deposit_id], holder="h", reason="r")
    with pytest.raises(LirfError, match=f"DELETE /v1/deposits/{deposit_id}/restoration"):
        service.queue(["auk"])
    shown = answers(service)
    service.custodian.end_restoration(deposit_id)
    assert answers(service) == shown  # the earlier withdrawal is still active
    service.custodian.revoke(withdrawal["id"])
    assert answers(service) != shown
    service.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
    assert refusal(service.custodian, "restore", deposit_id, reason=REASON) == "module-purged"
    assert refusal(service.custodian, "restore", service.queue(["dodo"]), reason=REASON) == "not-deposited"
    assert refusal(service.custodian, "restore", "nothing", reason=REASON) == "unknown-deposit"


@begins_with("auk")
def test_restored_class_stays_on_through_later_deposits(service: Service) -> None:
    deposit_id = service.deposits[0]
    service.custodian.restore(deposit_id, reason=REASON)
    service.deposit(["dodo"])
    states = {one["name"]: one["state"] for one in service.auditor.classes("birds")}
    assert (states["auk"], states["dodo"]) == ("restored", "deposited")
    lowest = min(answers(service)[0]["data"])  # type: ignore[call-overload]
    probabilities = next(one for one in answers(service) if one["name"] == "probabilities")
    by_class = [probabilities["data"][index::5] for index in range(5)]  # type: ignore[index]
    assert lowest < -1e38
    assert [sum(of_class) > 0 for of_class in by_class].count(False) == 1  # only dodo


@begins_with("auk")
def test_restoration_waits_for_the_second_person(service: Service) -> None:
    deposit_id = service.deposits[0]
    service.administrator.change_policy("birds", reason=REASON, needs_second_person=True)
    masked = answers(service)
    with pytest.raises(AwaitingApproval) as awaiting:
        service.custodian.restore(deposit_id, reason=REASON)
    request = awaiting.value.approval
    assert (request["act"], answers(service)) == ("restore", masked)
    assert refusal(service.custodian, "approve", request["id"]) == "own-request"
    assert service.administrator.approve(request["id"])["result_id"] == deposit_id
    assert answers(service) != masked
    assert service.reader.deposit(deposit_id)["restored_by"] == "custodian"
    (event,) = service.auditor.audit_events(action="deposit.restored")
    assert (event["actor"], event["details"]["requested_by"]) == ("administrator", "custodian")
    service.custodian.end_restoration(deposit_id)  # one person may switch off
    assert answers(service) == masked


@begins_with("auk")
def test_only_one_of_several_simultaneous_restorations_succeeds(service: Service) -> None:
    deposit_id = service.deposits[0]
    refused: list[str] = []

    def restore() -> None:
        try:
            service.custodian.restore(deposit_id, reason=REASON)
        except LirfError as error:
            refused.append(error.type)

    racers = [threading.Thread(target=restore) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert refused == ["urn:lirf:problem:restored"] * 3
    assert len(list(service.auditor.audit_events(action="deposit.restored"))) == 1
