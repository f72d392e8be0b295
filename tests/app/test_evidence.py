"""Evidence: gathered after a deposit and on request, once, by whoever holds it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.base.database import now
from app.deposits.tables import DepositRow
from app.evidence import service as evidence
from app.evidence.digests import digest
from app.evidence.jobs import JOBS, MAX_RESTARTS, Destroyed, Job
from app.evidence.tables import EvidenceRow
from app.jobs.machine import LeaseLost
from lirf_client import LirfError
from lirf_core.evidence.examination import Examination
from lirf_core.evidence.results import PARTS, Evidence
from tests.app.conftest import Service, begins_with, on_one_database
from tests.app.factories import CLASSES
from tests.lirf_core.attackers import short_attacks
from tests.lirf_core.factories import SPEC
from worker import examination
from worker.examination import examine


@pytest.fixture(autouse=True)
def brief() -> Iterator[None]:
    """What is learnt is no matter here: a few steps of each training."""
    with short_attacks():
        yield


def with_evaluation_set(service: Service, each: int = 6) -> str:
    """A model with one; returns its id."""
    service.register()
    return service.operator.upload_dataset("birds", service.archive(CLASSES, each), purpose="evaluation")["id"]


def examined(service: Service, evidence_id: str) -> dict[str, Any]:
    examine(service.worker, evidence_id)
    found = service.reader.evidence(evidence_id)
    assert found["state"] == "finished", found["failure"]
    assert found["found"] is not None
    return found["found"]


def examine_failing(service: Service, evidence_id: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Examination) -> None:
        raise error

    monkeypatch.setattr(Examination, "run", run)
    examine(service.worker, evidence_id)


def newest(service: Service, deposit_id: str) -> str:
    return service.reader.evidence_of(deposit_id)[0]["id"]


def reconcile(service: Service) -> list[str]:
    with service.database.session() as session:
        return JOBS.recover(session, service.worker.vault, service.settings)


def claim(service: Service, evidence_id: str) -> Job | None:
    with service.database.session() as session:
        return JOBS.claim(session, service.worker.vault, service.settings, evidence_id)


def set_values(service: Service, evidence_id: str, **values: Any) -> None:
    with service.database.session() as session, session.begin():
        session.execute(sa.update(EvidenceRow).where(EvidenceRow.id == evidence_id).values(**values))


@begins_with("auk dodo", has_evaluation_set=True)
def test_a_deposit_is_examined_once_it_is_made(service: Service) -> None:
    deposit_id = service.deposits[0]
    [queued] = service.reader.evidence_of(deposit_id)
    assert (queued["state"], queued["created_by"], queued["deposit"]) == ("queued", "worker", deposit_id)
    found = examined(service, queued["id"])
    assert {part for part in PARTS if found[part]} == set(PARTS)
    assert found["answers"].keys() == {"original", "target", "recover"}
    assert found["missing"].keys() == {"membership", "reference", "classes"}
    assert "on revision 1. The images were shredded" in found["missing"]["membership"]
    assert found["membership"] == (service.reader.deposit(deposit_id)["metrics"] or {})["membership"]

    told = service.reader.evidence(queued["id"])
    assert told["revision"] == 1
    assert told["digest"] == digest(found)
    events = list(service.auditor.audit_events(subject=queued["id"]))
    assert [event["action"] for event in events] == ["evidence.finished", "evidence.started", "evidence.requested"]
    details = events[0]["details"]
    examined_objects = details.pop("examined")
    assert details.pop("network") == {"architecture": SPEC.name, "split": "layer3", "classes": len(CLASSES)}
    assert details == {"deposit": deposit_id, "revision": 1, "digest": told["digest"], "reference": None}
    [made] = service.auditor.audit_events(subject=deposit_id, action="deposit.finished")
    assert examined_objects.keys() == {"target", "upper", "rows", "original", "module", "evaluation_set"}
    assert examined_objects["target"] == made["details"]["target_object"]
    assert examined_objects["module"] == made["details"]["module_object"]


@begins_with("auk")
def test_nothing_is_examined_without_held_out_images_or_if_declined(service: Service) -> None:
    first = service.deposits[0]
    assert service.reader.evidence_of(first) == []
    with pytest.raises(LirfError) as refusal:
        service.operator.request_evidence(first)
    assert refusal.value.type.endswith("no-evaluation-set")
    service.operator.upload_dataset("birds", service.archive(CLASSES), purpose="evaluation")
    second = service.deposit(["dodo"], evidence=False)
    assert service.reader.evidence_of(second) == []
    asked = service.auditor.request_evidence(second)
    assert examined(service, asked["id"])["answers"].keys() == {"original", "before", "target", "recover"}
    assert service.operator.request_evidence(first)["state"] == "queued"  # the set came later


@begins_with("auk", has_evaluation_set=True)
def test_one_examination_at_a_time_and_readers_cannot_request_one(service: Service) -> None:
    deposit_id = service.deposits[0]
    with pytest.raises(LirfError) as refusal:
        service.operator.request_evidence(deposit_id)
    assert refusal.value.type.endswith("evidence-unfinished")
    with pytest.raises(LirfError) as refusal:
        service.reader.request_evidence(deposit_id)
    assert refusal.value.status == 403
    queued = service.queue(["dodo"])
    with pytest.raises(LirfError) as refusal:
        service.operator.request_evidence(queued)
    assert refusal.value.type.endswith("nothing-to-examine")


@on_one_database
@begins_with(has_evaluation_set=True)
def test_members_are_a_kept_deposit_set_or_one_uploaded_again(service: Service) -> None:
    deposit_id = service.deposit(["auk"], keep_dataset=True)
    found = examined(service, newest(service, deposit_id))
    assert found["images"]["members"] == 4
    assert "membership" not in found["missing"]
    shown = service.operator.upload_dataset("birds", service.archive(["auk"], each=5))
    asked = service.operator.request_evidence(deposit_id, dataset_id=shown["id"])
    assert examined(service, asked["id"])["images"]["members"] == 5
    others = service.operator.upload_dataset("birds", service.archive(["auk", "emu"]))
    with pytest.raises(LirfError) as refusal:
        service.operator.request_evidence(deposit_id, dataset_id=others["id"])
    assert refusal.value.type.endswith("members-differ")


@on_one_database
@begins_with(has_evaluation_set=True)
def test_reference_is_compared_and_must_have_the_same_classes(service: Service) -> None:
    service.register("ignorant", seed=1)
    deposit_id = service.deposit(["auk"], evidence=False)
    asked = service.operator.request_evidence(deposit_id, reference="ignorant")
    assert asked["reference"] == "ignorant"
    found = examined(service, asked["id"])
    assert "reference" in found["answers"]
    assert found["attacks"]["networks"].keys() == {"original", "target", "reference", "fresh"}
    assert len(found["attacks"]["advantages"]) == len(found["attacks"]["budgets"])
    described = service.operator.model("birds")
    preprocessing = {**described["preprocessing"], "std": [0.25]}
    architecture = {name: described["architecture"][name] for name in ("name", "width")}
    service.operator.register_model("other", architecture=architecture, classes=CLASSES, preprocessing=preprocessing)
    service.operator.put_weights("other", service.weights(2))
    with pytest.raises(LirfError, match="knew the classes"):
        service.operator.request_evidence(deposit_id, reference="birds")
    with pytest.raises(LirfError) as refusal:
        service.operator.request_evidence(deposit_id, reference="other")
    assert refusal.value.type.endswith("reference-differs")
    wider = {**architecture, "width": 0.5}
    alike = described["preprocessing"]
    service.operator.register_model("wide", architecture=wider, classes=CLASSES, preprocessing=alike)
    service.operator.put_weights("wide", service.weights(2, replace(SPEC, width=0.5)))
    with pytest.raises(LirfError, match="architecture"):
        service.operator.request_evidence(deposit_id, reference="wide")


@on_one_database
@begins_with(has_evaluation_set=True)
def test_destroyed_networks_are_listed_as_missing(service: Service) -> None:
    service.administrator.change_policy("birds", original="destroy", reason="r")
    deposit_id = service.deposit(["auk"])
    found = examined(service, newest(service, deposit_id))
    assert "destroyed" in found["missing"]["original"]
    assert found["answers"].keys() == {"target", "recover"}
    service.administrator.purge(deposit_id, classes=["auk"], reason="r")
    found = examined(service, service.auditor.request_evidence(deposit_id)["id"])
    assert "purged" in found["missing"]["recover"]
    assert found["answers"].keys() == {"target"}
    assert found["attacks"]["networks"].keys() == {"target", "fresh"}  # its rows are gone, and attackers make new ones


def test_examination_fails_if_its_images_are_deleted_while_it_waits(service: Service) -> None:
    evaluation_id = with_evaluation_set(service)
    deposit_id = service.deposit(["auk"])
    service.operator.discard_dataset("birds", evaluation_id)
    examine(service.worker, newest(service, deposit_id))
    failed = service.reader.evidence(newest(service, deposit_id))
    assert failed["state"] == "failed"
    assert "shredded" in (failed["failure"] or "")


@begins_with("auk", has_evaluation_set=True)
def test_a_lost_worker_is_replaced_and_its_late_writes_change_nothing(service: Service) -> None:
    evidence_id = newest(service, service.deposits[0])
    stale = claim(service, evidence_id)
    assert stale is not None
    assert claim(service, evidence_id) is None
    assert reconcile(service) == []
    set_values(service, evidence_id, lease_until=now() - timedelta(1))
    assert reconcile(service) == [evidence_id]
    assert claim(service, evidence_id) is not None
    with service.database.session() as session:
        for late in (
            lambda: JOBS.heartbeat(session, service.settings, stale, progress={}),
            lambda: JOBS.finish(session, service.worker.vault, stale, {"good": {}}),
            lambda: JOBS.fail(session, service.worker.vault, stale, "late"),
            lambda: JOBS.give_back(session, service.worker.vault, service.settings, stale, None),
        ):
            with pytest.raises(LeaseLost):
                late()
    assert service.reader.evidence(evidence_id)["state"] == "running"
    for _ in range(2):
        set_values(service, evidence_id, lease_until=now() - timedelta(1))
        reconcile(service)
        claim(service, evidence_id)
    set_values(service, evidence_id, lease_until=now() - timedelta(1))
    assert reconcile(service) == []
    assert "was lost 3 times" in (service.reader.evidence(evidence_id)["failure"] or "")
    [failed] = service.auditor.audit_events(subject=evidence_id, action="evidence.failed")
    assert failed["actor"] == "reconciler"


@begins_with(has_evaluation_set=True)
def test_crash_between_deposit_and_evidence_loses_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    deposit_id = service.queue(["auk"])
    with monkeypatch.context() as patched:
        patched.setattr("worker.deposit.evidence.request_wanted", lambda session: [])
        service.work(deposit_id)
    assert service.reader.evidence_of(deposit_id) == []
    with service.database.session() as session:
        [evidence_id] = evidence.request_wanted(session)
        assert evidence.request_wanted(session) == []
    assert newest(service, deposit_id) == evidence_id


@begins_with("auk", has_evaluation_set=True)
def test_a_cancelled_examination_ends_at_its_next_step(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence_id = newest(service, service.deposits[0])
    monkeypatch.setattr("worker.heartbeat.HEARTBEAT_SECONDS", 0)
    parts: list[str] = []

    class Watched(Examination):
        def _step(self) -> None:
            if self._part == "attacks" and "attacks" not in parts:
                service.operator.cancel_evidence(evidence_id)
            parts.append(self._part)
            super()._step()

    monkeypatch.setattr(examination, "Examination", Watched)
    examine(service.worker, evidence_id)
    assert parts[-1] == "attacks"
    assert service.reader.evidence(evidence_id)["state"] == "cancelled"
    with pytest.raises(LirfError) as refusal:
        service.operator.cancel_evidence(evidence_id)
    assert refusal.value.type.endswith("evidence-ended")


@pytest.mark.parametrize("of", ["purge", "later deposit", "evaluation set"])
def test_examination_stops_at_once_if_its_objects_are_destroyed(
    service: Service, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    evaluation_id = with_evaluation_set(service)
    deposit_id = service.deposit(["auk"])
    evidence_id = newest(service, deposit_id)
    monkeypatch.setattr("worker.heartbeat.HEARTBEAT_SECONDS", 0)
    parts: list[str] = []

    class Watched(Examination):
        def _step(self) -> None:
            if self._part == "attacks" and "attacks" not in parts:
                if of == "purge":
                    service.administrator.purge(deposit_id, classes=["auk"], reason="r")
                elif of == "later deposit":  # which scrubs the module, and makes another target
                    service.deposit(["dodo"], evidence=False)
                else:
                    service.operator.discard_dataset("birds", evaluation_id)
            parts.append(self._part)
            super()._step()

    with monkeypatch.context() as patched:
        patched.setattr(examination, "Examination", Watched)
        examine(service.worker, evidence_id)
    assert parts[-1] == "attacks"
    assert service.reader.evidence(evidence_id)["state"] == "queued"
    [requeued] = service.auditor.audit_events(subject=evidence_id, action="evidence.requeued")
    assert "replaced or destroyed" in requeued["details"]["trouble"]
    examine(service.worker, evidence_id)
    again = service.reader.evidence(evidence_id)
    if of == "evaluation set":
        assert again["state"] == "failed"
        assert "shredded" in (again["failure"] or "")
    else:
        assert again["state"] == "finished"
        assert again["revision"] == (1 if of == "purge" else 2)


@begins_with("auk", has_evaluation_set=True)
def test_waiting_deposits_go_before_examinations(service: Service) -> None:
    evidence_id = newest(service, service.deposits[0])
    waiting = service.queue(["dodo"], evidence=False)
    assert claim(service, evidence_id) is None
    assert service.reader.evidence(evidence_id)["state"] == "queued"
    assert reconcile(service) == []
    service.work(waiting)
    assert reconcile(service) == [evidence_id]
    assert claim(service, evidence_id) is not None


@begins_with("auk", has_evaluation_set=True)
def test_examination_that_cannot_be_started_fails(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence_id = newest(service, service.deposits[0])

    def fails(*_: object) -> None:
        raise KeyError("crop_padding")

    with monkeypatch.context() as patched:
        patched.setattr("app.evidence.jobs.registry.preprocessing_of", fails)
        assert claim(service, evidence_id) is None
    failed = service.reader.evidence(evidence_id)
    assert failed["state"] == "failed"
    assert failed["failure"] == "It cannot be started: KeyError in the worker. The worker's log has the details."
    actions = [event["action"] for event in service.auditor.audit_events(subject=evidence_id)]
    assert actions == ["evidence.failed", "evidence.requested"]  # it was not started


@begins_with("auk", has_evaluation_set=True)
def test_deposit_that_cannot_be_started_fails_and_does_not_block_evidence(service: Service) -> None:
    evidence_id = newest(service, service.deposits[0])
    broken = service.queue(["dodo"])
    with service.database.session() as session, session.begin():
        session.execute(sa.update(DepositRow).where(DepositRow.id == broken).values(config={}))
    assert claim(service, evidence_id) is None
    service.work(broken)
    failed = service.reader.deposit(broken)
    assert failed["state"] == "failed"
    assert "cannot be started" in (failed["failure"] or "")
    assert claim(service, evidence_id) is not None


@on_one_database
@begins_with(has_evaluation_set=True)
def test_examination_goes_on_without_members_that_were_discarded(service: Service) -> None:
    deposit_id = service.deposit(["auk"], keep_dataset=True)
    with service.database.session() as session:
        dataset_id = session.scalars(sa.select(DepositRow.dataset_id).where(DepositRow.id == deposit_id)).one()
    service.operator.discard_dataset("birds", dataset_id)
    found = examined(service, newest(service, deposit_id))
    assert "on revision 1" in found["missing"]["membership"]
    assert found["membership"]


@begins_with("auk", has_evaluation_set=True)
def test_purge_during_the_last_part_discards_its_result(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    deposit_id = service.deposits[0]
    evidence_id = newest(service, deposit_id)
    run = Examination.run

    def purged_at_the_end(self: Examination) -> Evidence:
        found = run(self)
        service.administrator.purge(deposit_id, classes=["auk"], reason="r")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Examination, "run", purged_at_the_end)
        examine(service.worker, evidence_id)
    assert service.reader.evidence(evidence_id)["state"] == "queued"
    assert "recover" not in examined(service, evidence_id)["answers"]


@begins_with("auk", has_evaluation_set=True)
def test_passing_trouble_is_retried_until_the_attempts_are_used_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence_id = newest(service, service.deposits[0])

    def failing(error: BaseException) -> None:
        examine_failing(service, evidence_id, error, monkeypatch)

    with pytest.raises(KeyboardInterrupt):
        failing(KeyboardInterrupt())
    assert service.reader.evidence(evidence_id)["state"] == "queued"
    failing(OSError("the disk"))
    failing(OSError("the disk"))
    assert service.reader.evidence(evidence_id)["state"] == "queued"
    failing(OSError("the disk"))
    told = service.reader.evidence(evidence_id)
    assert told["state"] == "failed"
    assert "After 3 attempts" in (told["failure"] or "")


@begins_with("auk", has_evaluation_set=True)
def test_destroyed_object_is_not_counted_as_a_failed_attempt(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    deposit_id = service.deposits[0]
    evidence_id = newest(service, deposit_id)
    opened = examination._networks

    def purged_before(*of: Any) -> Any:
        service.administrator.purge(deposit_id, classes=["auk"], reason="r")
        return opened(*of)

    with monkeypatch.context() as patched:
        patched.setattr(examination, "_networks", purged_before)
        examine(service.worker, evidence_id)
    with service.database.session() as session:
        row = session.get_one(EvidenceRow, evidence_id)
        assert (row.state, row.attempts, row.restarts) == ("queued", 0, 1)
    assert "recover" not in examined(service, evidence_id)["answers"]


@begins_with("auk", has_evaluation_set=True)
def test_restarts_have_a_higher_limit_than_attempts(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence_id = newest(service, service.deposits[0])

    def failing(error: Exception) -> dict[str, Any]:
        examine_failing(service, evidence_id, error, monkeypatch)
        return dict(service.reader.evidence(evidence_id))

    for _ in range(MAX_RESTARTS):
        assert failing(Destroyed())["state"] == "queued"
    assert failing(OSError("the disk"))["state"] == "queued"
    told = failing(Destroyed())
    assert told["state"] == "failed"
    assert "replaced or destroyed too often" in (told["failure"] or "")


@begins_with(has_evaluation_set=True)
def test_later_deposits_do_not_count_as_preserved_classes(service: Service) -> None:
    first = service.deposit(["auk"], evidence=False)
    service.deposit(["dodo"], evidence=False)
    asked = service.operator.request_evidence(first)
    found = examined(service, asked["id"])
    assert service.reader.evidence(asked["id"])["revision"] == 2  # of what serves now
    assert found["answers"]["target"]["by_class"].keys() == {"auk", "emu", "heron", "kiwi"}
