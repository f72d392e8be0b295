"""Figures of deposits stay true: each publication measures, and anything can be measured again."""

import pytest

from lirf_client import LirfError
from tests.app.conftest import Service, begins_with, on_one_database
from worker.measurement import measure
from worker.work import Work

TWO = begins_with("auk", "dodo", is_trained=True, has_evaluation_set=True)


@TWO
def test_each_publication_measures_each_deposit_alone_and_all_together(service: Service) -> None:
    auk, dodo = service.deposits
    newest, first = service.reader.measurements("birds")
    assert (first["revision"], [view["deposits"] for view in first["views"] or []]) == (1, [[], [auk]])
    assert newest["revision"] == 2
    views = newest["views"] or []
    assert [view["deposits"] for view in views] == [[], [auk], [dodo], [auk, dodo]]
    assert all(view["preserved_loss"] is not None for view in views)
    assert views[0]["withdrawn_accuracy"] is None
    assert (views[3]["withdrawn_accuracy"] or 0) > 50

    figures = service.reader.deposit(auk)["figures"]
    assert figures is not None
    assert (figures["measurement"], figures["revision"], figures["is_current"]) == (newest["id"], 2, True)
    assert figures["alone"] is not None
    assert figures["alone"]["withdrawn_accuracy"] == views[1]["withdrawn_accuracy"]
    by_class = {one["name"]: one for one in service.reader.classes("birds")}
    assert by_class["auk"]["accuracy_recovered"] == views[1]["by_class"]["auk"]
    assert by_class["emu"]["accuracy_recovered"] == views[3]["by_class"]["emu"]
    assert by_class["auk"]["accuracy_original"] is not None
    assert by_class["auk"]["measured_at"] == figures["measured_at"]


@TWO
def test_any_set_of_deposits_is_measured_on_request(service: Service) -> None:
    auk, dodo = service.deposits
    automatic = service.reader.measurements("birds")[0]["views"] or []
    requested = service.auditor.request_measurement("birds", deposits=[dodo])
    assert (requested["state"], requested["views"]) == ("queued", None)
    measure(service.worker, requested["id"])
    [*_, measured] = service.reader.follow_measurement(requested["id"])
    assert (measured["state"], measured["revision"], measured["deposits"]) == ("finished", 2, [dodo])
    target, alone = measured["views"] or []
    assert target == automatic[0]
    assert alone["by_class"].items() >= automatic[2]["by_class"].items()
    assert {**alone, "by_class": {}} == {**automatic[2], "by_class": {}}
    assert (set(automatic[2]["by_class"]), len(alone["by_class"])) == ({"dodo"}, 5)

    whole = service.operator.request_measurement("birds")
    service.administrator.purge(auk, classes=["auk"], reason="r")
    measure(service.worker, whole["id"])
    views = service.reader.measurement(whole["id"])["views"] or []
    assert [view["deposits"] for view in views] == [[], [dodo]]
    actions = [event["action"] for event in service.auditor.audit_events(subject=whole["id"])]
    assert actions == ["measurement.finished", "measurement.started", "measurement.requested"]


@TWO
@on_one_database
def test_what_cannot_be_measured_is_refused(service: Service) -> None:
    auk, _ = service.deposits
    service.register("others")
    refusals = {
        "foreign-deposit": ("others", [auk]),
        "unknown-deposit": ("birds", ["nothing"]),
        "nothing-to-measure": ("others", None),
    }
    for problem, (model, deposits) in refusals.items():
        with pytest.raises(LirfError) as caught:
            service.operator.request_measurement(model, deposits=deposits)
        assert caught.value.type.endswith(problem)
    queued = service.operator.request_measurement("birds")
    assert service.operator.cancel_measurement(queued["id"])["state"] == "cancelled"
    measure(Work(service.settings), queued["id"])
    with pytest.raises(LirfError, match="is cancelled"):
        service.operator.cancel_measurement(queued["id"])
