import pytest

from lirf_client import LirfError
from tests.app.conftest import HTTP, Service, begins_with


@begins_with()
def test_the_audit_has_every_act_with_its_actor_and_reason(service: Service) -> None:
    deposit_id = service.deposit(["auk"], reason="licence ended")
    withdrawal = service.custodian.withdraw([deposit_id], holder="press", reason="licence renewed")
    service.custodian.revoke(withdrawal["id"])
    story = [(e["actor"], e["action"], e["reason"]) for e in service.auditor.audit_events(model="birds")][::-1]
    assert story == [
        ("operator", "model.registered", None),
        ("operator", "model.weights_stored", None),
        ("operator", "dataset.stored", None),
        ("operator", "deposit.requested", "licence ended"),
        ("worker", "deposit.started", None),
        ("worker", "deposit.finished", "licence ended"),
        ("worker", "dataset.shredded", None),
        ("custodian", "withdrawal.opened", "licence renewed"),
        ("custodian", "withdrawal.revoked", None),
    ]
    finished = next(service.auditor.audit_events(action="deposit.finished"))
    assert finished["subject"] == deposit_id
    assert finished["details"]["classes"] == ["auk"]
    assert len(finished["details"]["module_object"]) == 64


@begins_with()
def test_refused_requests_leave_no_event(service: Service) -> None:
    before = list(service.auditor.audit_events())
    with pytest.raises(LirfError):
        service.queue(["auk"], classes=["emu"])
    with pytest.raises(LirfError):
        service.custodian.withdraw(["nonsense"], holder="h", reason="r")
    added = [event["action"] for event in service.auditor.audit_events()][: -len(before)]
    assert added == ["dataset.stored"]


def test_paging_returns_every_event_exactly_once(service: Service) -> None:
    for number in range(7):
        service.administrator.create_key(f"key-{number}", [])

    headers = {"Authorization": f"Bearer {service.key_of('auditor', 'auditor')}"}
    cursor, seen = None, []
    while True:
        params = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = HTTP.get(f"{service.url}/v1/audit/events", params=params, headers=headers).json()
        seen += [event["id"] for event in page["items"]]
        assert len(page["items"]) <= 3
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) >= 12
    assert seen == sorted(seen, reverse=True)
