"""Modules of earlier deposits know the classes that are deposited later, until these are purged."""

import threading
from typing import Any

import pytest
import sqlalchemy as sa

import worker.deposit
from app.deposits.tables import DepositRow
from app.inference.network_cache import NetworkCache
from app.registry import service as registry
from app.vault.service import StoredObject, Vault
from app.vault.tables import VaultObjectRow
from lirf_core.network import digest
from tests.app.conftest import Service, begins_with, on_one_database
from tests.app.factories import CLASSES, infer_request
from worker.measurement import measure
from worker.work import Work


def module_object(service: Service, deposit_id: str) -> VaultObjectRow:
    with service.database.session() as session:
        row = session.get_one(DepositRow, deposit_id)
        assert row.module_object_id is not None
        return session.get_one(VaultObjectRow, row.module_object_id)


def scrubbed_object(service: Service, deposit_id: str) -> VaultObjectRow:
    with service.database.session() as session:
        row = session.get_one(DepositRow, deposit_id)
        assert row.scrubbed_object_id is not None
        return session.get_one(VaultObjectRow, row.scrubbed_object_id)


def is_shredded(service: Service, one: VaultObjectRow) -> bool:
    with service.database.session() as session:
        is_keyless = session.get_one(VaultObjectRow, one.id).wrapped_key is None
    return is_keyless and one.name not in service.worker.vault.objects.names()


def has_only_live_objects(service: Service) -> bool:
    with service.database.session() as session:
        live = set(session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_not(None))))
    return service.worker.vault.objects.names() == live


def scrubbings(service: Service) -> list[tuple[str | None, list[str]]]:
    events = [event for event in service.auditor.audit_events() if event["action"] == "module.scrubbed"]
    return [(event["subject"], (event["details"] or {})["of_classes"]) for event in events][::-1]


@begins_with("auk", "dodo")
def test_modules_stay_as_made_and_their_scrubbed_ones_wait(service: Service) -> None:
    first, second = service.deposits
    before = [module_object(service, deposit_id) for deposit_id in (first, second)]
    scrubbed_of_dodo = scrubbed_object(service, first)
    third = service.deposit(["emu"])

    assert scrubbings(service) == [(first, ["dodo"]), (first, ["emu"]), (second, ["emu"])]
    assert [module_object(service, deposit_id).id for deposit_id in (first, second)] == [one.id for one in before]
    assert is_shredded(service, scrubbed_of_dodo)  # one that has forgotten emu, too, took its place
    forgets = [service.reader.deposit(one)["scrubbed_module"] for one in (first, second, third)]
    assert [one and one["forgets"] for one in forgets] == [2, 1, None]
    assert has_only_live_objects(service)
    for deposit_id in (first, second, third):
        service.custodian.withdraw([deposit_id], holder="h", reason="r")
    assert set(service.reader.infer("birds", infer_request())["parameters"]) == {"revision", "withdrawals"}


@begins_with("auk", "dodo")
def test_a_purge_puts_scrubbed_modules_in_place_of_those_that_know_the_classes(service: Service) -> None:
    first, second = service.deposits
    third = service.deposit(["emu"])
    knew, waited = module_object(service, first), scrubbed_object(service, first)
    of_second = module_object(service, second)
    service.custodian.withdraw([first], holder="h", reason="r")
    purged = service.administrator.purge(second, classes=["dodo"], reason="r")

    assert purged["scrubbed"] == [first]
    assert is_shredded(service, knew)
    assert is_shredded(service, of_second)
    assert module_object(service, first).id == waited.id
    assert service.reader.deposit(first)["scrubbed_module"] is None
    assert has_only_live_objects(service)
    [event] = [one for one in service.auditor.audit_events() if one["action"] == "deposit.purged"]
    assert (event["details"] or {})["scrubbed_modules_of"] == [first]
    assert service.reader.infer("birds", infer_request())["parameters"]["revision"] == 3
    # The module in use knows neither dodo nor emu, so the next purge replaces nothing.
    assert service.administrator.purge(third, classes=["emu"], reason="r")["scrubbed"] == []
    fourth = service.deposit(["heron"])
    assert service.reader.deposit(first)["scrubbed_module"] == {"forgets": 1, "loss": None}
    assert service.administrator.purge(fourth, classes=["heron"], reason="r")["scrubbed"] == [first]


@begins_with("auk", "dodo")
def test_the_purge_of_an_older_deposit_destroys_both_of_its_modules(service: Service) -> None:
    first, second = service.deposits
    both = module_object(service, first), scrubbed_object(service, first)
    assert service.administrator.purge(first, classes=["auk"], reason="r")["scrubbed"] == []
    assert all(is_shredded(service, one) for one in both)
    assert has_only_live_objects(service)
    service.custodian.withdraw([second], holder="h", reason="r")


@begins_with("auk", "dodo")
@pytest.mark.parametrize("change", [{"scrub": "deposit"}, {"original": "destroy"}])
def test_a_policy_may_leave_no_module_that_knows_a_later_class(service: Service, change: dict[str, str]) -> None:
    first, second = service.deposits
    knew, waited = module_object(service, first), scrubbed_object(service, first)
    service.administrator.change_policy("birds", reason="no copy", **change)
    assert module_object(service, first).id == waited.id
    assert is_shredded(service, knew)
    [event] = [one for one in service.auditor.audit_events() if one["action"] == "model.policy_changed"]
    assert (event["details"] or {})["scrubbed_modules_of"] == [first]

    before = [module_object(service, deposit_id) for deposit_id in (first, second)]
    service.deposit(["emu"])
    assert all(is_shredded(service, one) for one in before)
    assert [service.reader.deposit(one)["scrubbed_module"] for one in (first, second)] == [None, None]
    assert has_only_live_objects(service)


@begins_with("auk", "dodo")
@pytest.mark.parametrize("step", ["deposit", "measure"])
@pytest.mark.parametrize("by", ["a purge", "the policy"])
def test_a_deposit_begins_anew_when_a_module_is_replaced_meanwhile(
    service: Service, monkeypatch: pytest.MonkeyPatch, step: str, by: str
) -> None:
    """step: after which one; after `deposit` it still reads the module, after `measure` it has measured with it."""
    first, second = service.deposits
    carry_out = getattr(worker.deposit, step)

    def replaced_after(*arguments: Any) -> Any:
        result = carry_out(*arguments)
        monkeypatch.setattr(worker.deposit, step, carry_out)
        if by == "a purge":
            service.administrator.purge(second, classes=["dodo"], reason="r")
        else:
            service.administrator.change_policy("birds", scrub="deposit", reason="r")
        return result

    monkeypatch.setattr(worker.deposit, step, replaced_after)
    third = service.queue(["emu"])
    service.work(third)
    assert service.reader.deposit(third)["state"] == "queued"
    [event] = [one for one in service.auditor.audit_events() if one["action"] == "deposit.requeued"]
    trouble = (event["details"] or {})["trouble"]
    assert "was replaced by its scrubbed one" in trouble or "scrubbed modules now take their place" in trouble
    service.work(third)
    assert (service.reader.deposit(third)["state"], service.reader.deposit(third)["attempts"]) == ("deposited", 1)
    waits = {"forgets": 1, "loss": None} if by == "a purge" else None
    assert service.reader.deposit(first)["scrubbed_module"] == waits
    assert has_only_live_objects(service)


@begins_with("auk", has_evaluation_set=True)
@pytest.mark.parametrize("scrub", ["purge", "deposit"])
def test_figures_are_current_until_a_module_is_replaced(service: Service, scrub: str) -> None:
    service.administrator.change_policy("birds", scrub=scrub, reason="r")
    second = service.deposit(["dodo"])
    for deposit_id in (*service.deposits, second):
        assert (service.reader.deposit(deposit_id)["figures"] or {})["is_current"]


@begins_with("auk", "dodo")
def test_what_modules_know_and_lose_is_measured(service: Service) -> None:
    first, second = service.deposits
    service.operator.upload_dataset("birds", service.archive(CLASSES, each=8), purpose="evaluation")
    third = service.deposit(["emu"])
    known = (service.reader.deposit(third)["metrics"] or {})["older_modules"]
    assert set(known) == {first, second}
    assert all(0 <= share <= 100 for one in known.values() for share in one.values())
    scrubbed = service.reader.deposit(first)["scrubbed_module"]
    assert scrubbed
    figures = service.reader.deposit(first)["figures"]
    assert figures
    assert figures["is_current"]
    service.administrator.purge(third, classes=["emu"], reason="r")
    figures = service.reader.deposit(first)["figures"]
    assert figures
    assert not figures["is_current"]
    [measurement] = [one for one in service.reader.measurements("birds") if one["state"] == "queued"]
    measure(service.worker, measurement["id"])
    figures = service.reader.deposit(first)["figures"]
    assert figures
    assert figures["is_current"]


@begins_with("auk")
def test_a_deposit_that_fails_leaves_older_modules_as_they_were(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = service.deposits[0]
    before = module_object(service, first)
    monkeypatch.setattr("worker.deposit.scrub", fail)
    second = service.queue(["dodo"])
    service.work(second)
    assert service.reader.deposit(second)["state"] == "failed"
    assert module_object(service, first).id == before.id
    assert has_only_live_objects(service)


@begins_with("auk")
@on_one_database
def test_the_oldest_network_that_exists_teaches_later_deposits_and_scrubs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers: list[tuple[str, bool]] = []

    def spy(name: str) -> None:
        carry_out = getattr(worker.deposit, name)

        def spied(*arguments: Any) -> Any:
            teacher = arguments[-1]
            teachers.append((name, digest(teacher.lower) == original))
            return carry_out(*arguments)

        monkeypatch.setattr(worker.deposit, name, spied)

    with service.database.session() as session:
        stored = registry.revision_if_present(session, registry.get(session, "birds"), 0)
    assert stored
    original = digest(stored.open(Work(service.settings).vault).lower)
    spy("deposit")
    spy("scrub")
    service.deposit(["dodo"])
    assert teachers == [("deposit", True), ("scrub", True)]
    teachers.clear()
    service.administrator.change_policy("birds", reason="no copy", original="destroy")
    service.deposit(["emu"])
    assert teachers == [("deposit", False), ("scrub", False), ("scrub", False)]


def fail(*_: object, **__: object) -> None:
    raise ValueError("no")


def publish_before_reading(
    service: Service, monkeypatch: pytest.MonkeyPatch, deposit_id: str, kind: str
) -> threading.Event:
    """The first reading of an object of this kind waits until the deposit is published; the event tells that it was."""
    read, is_replaced = Vault.read, threading.Event()

    def read_late(vault: Vault, sealed: StoredObject) -> bytes:
        if sealed.binding.kind == kind and not is_replaced.is_set():
            is_replaced.set()
            elsewhere = threading.Thread(target=service.work, args=(deposit_id,))
            elsewhere.start()
            elsewhere.join()
        return read(vault, sealed)

    monkeypatch.setattr(Vault, "read", read_late)
    return is_replaced


@begins_with("auk")
def test_withdrawal_during_a_replacement_gets_the_new_module(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is read from the database, then replaced and removed, then read from the vault."""
    first, second = service.deposits[0], service.queue(["dodo"])
    is_replaced = publish_before_reading(service, monkeypatch, second, "module")
    service.custodian.withdraw([first], holder="h", reason="r")
    assert is_replaced.is_set()
    assert service.reader.deposit(second)["state"] == "deposited"
    assert service.reader.infer("birds", infer_request())["parameters"]["revision"] == 2


@begins_with("auk")
def test_inference_during_a_replacement_uses_the_new_module(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = service.deposits[0], service.queue(["dodo"])
    service.custodian.withdraw([first], holder="h", reason="r")
    monkeypatch.setattr(NetworkCache, "_open", lambda cache, key, load, fuse: load())
    is_replaced = publish_before_reading(service, monkeypatch, second, "lower")
    assert service.reader.infer("birds", infer_request())["parameters"]["revision"] == 2
    assert is_replaced.is_set()


@begins_with("auk")
def test_missing_module_is_reported_as_damaged(service: Service) -> None:
    first = service.deposits[0]
    vault = Work(service.settings).vault
    vault.remove([module_object(service, first).name])
    with pytest.raises(Exception, match=r"cannot be opened\. Restore its file"):
        service.custodian.withdraw([first], holder="h", reason="r")
