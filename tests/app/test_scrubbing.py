"""Modules of earlier deposits forget the classes that are deposited later."""

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
from tests.app.factories import infer_request
from worker.work import Work


def module_object(service: Service, deposit_id: str) -> VaultObjectRow:
    with service.database.session() as session:
        row = session.get_one(DepositRow, deposit_id)
        assert row.module_object_id is not None
        return session.get_one(VaultObjectRow, row.module_object_id)


def scrubbings(service: Service) -> list[tuple[str | None, list[str]]]:
    events = [event for event in service.auditor.audit_events() if event["action"] == "module.scrubbed"]
    return [(event["subject"], (event["details"] or {})["of_classes"]) for event in events][::-1]


@begins_with("auk", "dodo")
def test_a_later_deposit_replaces_the_modules_of_all_earlier_ones(service: Service) -> None:
    first, second = service.deposits
    before = [module_object(service, deposit_id) for deposit_id in (first, second)]
    third = service.deposit(["emu"])

    assert scrubbings(service) == [(first, ["dodo"]), (first, ["emu"]), (second, ["emu"])]
    after = [module_object(service, deposit_id) for deposit_id in (first, second)]
    vault = Work(service.settings).vault
    with service.database.session() as session:
        for old, new in zip(before, after, strict=True):
            assert new.id != old.id
            assert session.get_one(VaultObjectRow, old.id).wrapped_key is None
            assert old.name not in vault.objects.names()
            assert new.name in vault.objects.names()
    for deposit_id in (first, second, third):
        service.custodian.withdraw([deposit_id], holder="h", reason="r")
    assert set(service.reader.infer("birds", infer_request())["parameters"]) == {"revision", "withdrawals"}


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
    with service.database.session() as session:
        kept = set(session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_not(None))))
    assert Work(service.settings).vault.objects.names() == kept


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
