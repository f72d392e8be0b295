import pytest

from lirf_client import Client, LirfError
from tests.app.conftest import Service, begins_with


def by_name(client: Client) -> dict[str, dict[str, object]]:
    return {item["name"]: dict(item) for item in client.classes("birds")}


@begins_with()
def test_every_class_has_its_state_with_time_actor_and_reason(service: Service) -> None:
    service.operator.upload_dataset(
        "birds", service.archive(["auk", "dodo", "emu", "heron", "kiwi"], 3), purpose="evaluation"
    )
    fresh = by_name(service.reader)["auk"]
    assert (fresh["state"], fresh["by"], fresh["accuracy_before"]) == ("preserved", "operator", None)

    deposit_id = service.deposit(["auk"], reason="licence ended")
    auk, dodo = (by_name(service.reader)[name] for name in ("auk", "dodo"))
    assert (auk["state"], auk["by"], auk["reason"], auk["deposit_id"]) == (
        "deposited",
        "operator",
        "licence ended",
        deposit_id,
    )
    assert auk["since"] == service.reader.deposit(deposit_id)["finished_at"]
    for item in (auk, dodo):
        assert all(isinstance(item[f"accuracy_{when}"], float) for when in ("before", "after", "recovered"))
    assert (dodo["state"], dodo["deposit_id"]) == ("preserved", None)

    soon = service.custodian.withdraw([deposit_id], holder="h", reason="fair", expires_in_seconds=100)
    auk = by_name(service.reader)["auk"]
    assert (auk["state"], auk["by"], auk["reason"]) == ("withdrawn", "custodian", "fair")
    assert (auk["withdrawals"], auk["until"]) == ([soon["id"]], soon["expires_at"])
    endless = service.custodian.withdraw([deposit_id], holder="h", reason="more")
    assert by_name(service.reader)["auk"]["until"] is None
    for withdrawal in (soon, endless):
        service.custodian.revoke(withdrawal["id"])
    assert by_name(service.reader)["auk"]["state"] == "deposited"


def test_listing_the_classes_of_an_unknown_model_is_a_problem(service: Service) -> None:
    with pytest.raises(LirfError, match="There is no model 'birds'"):
        service.reader.classes("birds")
