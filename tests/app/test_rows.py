"""The rows of deposited classes: in their module and nowhere else, also in models that an earlier version stored."""

import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.access.service import LOCAL_ADMINISTRATOR
from app.deposits import separation
from app.deposits import service as deposits
from app.inference.views import Views
from app.purges import service as purges
from app.second_person.service import Requester
from app.vault import maintenance
from app.vault import service as vaults
from app.vault.service import VaultDamaged
from app.vault.tables import VaultObjectRow
from lirf_core import artifacts
from lirf_core.class_rows import present, split_last
from lirf_core.quantisation import Grid
from tests.app.conftest import Service, begins_with
from tests.app.crashes import steps_until_death
from tests.app.earlier_version import store_as_earlier_version
from tests.app.factories import CLASSES, infer_request
from tests.lirf_core.factories import network
from worker.work import Work


def holders(service: Service, label: str) -> set[tuple[str, str]]:
    """The kinds and subjects of all stored objects that have the row of a class."""
    _, last = split_last(network().upper)  # of the weights that `Service.register` uploads
    row = last.weight[CLASSES.index(label)].detach().numpy().tobytes()
    found = set()
    with service.database.reading() as session:
        ids = session.scalars(sa.select(VaultObjectRow.id).where(VaultObjectRow.wrapped_key.is_not(None))).all()
        for stored in vaults.stored_objects(session, ids).values():
            if row in service.worker.vault.read(stored):
                found.add((stored.binding.kind, stored.binding.subject_id))
    return found


def answers(service: Service) -> list[Any]:
    """What the model answers with nothing, each deposit and all of them withdrawn."""
    found = [service.reader.infer("birds", infer_request(3))["outputs"]]
    held = [row for row in service.deposits if service.reader.deposit(row)["state"] == "deposited"]
    for ids in [[one] for one in held] + ([held] if len(held) > 1 else []):
        withdrawal = service.custodian.withdraw(ids, holder="h", reason="r")
        found.append(service.reader.infer("birds", infer_request(3))["outputs"])
        service.custodian.revoke(withdrawal["id"])
    return found


def purge(service: Service, deposit_id: str, label: str) -> dict[str, Any]:
    return dict(service.administrator.purge(deposit_id, classes=[label], reason="r"))


def is_sound(service: Service) -> bool:
    """No garbage, nothing that does not open, and an intact audit."""
    maintenance.gc(service.database, service.worker.vault, grace=timedelta(0))
    return not maintenance.check(service.database, service.worker.vault) and bool(
        service.auditor.verify_audit()["is_intact"]
    )


@begins_with("auk", "emu")
def test_a_deposited_row_lies_in_its_module_until_a_purge_destroys_it(service: Service) -> None:
    first, second = service.deposits
    assert holders(service, "auk") == {("module", first)}
    assert holders(service, "emu") == {("module", second)}
    [(kind, subject)] = holders(service, "kiwi")
    assert (kind, subject) == ("rows", second)

    purge(service, first, "auk")
    assert holders(service, "auk") == set()
    assert holders(service, "emu") == {("module", second)}
    third = service.deposit(["kiwi"])
    assert holders(service, "kiwi") == {("module", third)}
    assert service.reader.infer("birds", infer_request(1))["outputs"][1]["data"][0] == 0.0
    assert is_sound(service)


@begins_with("auk", "emu")
def test_the_served_network_has_no_deposited_rows(service: Service) -> None:
    served = Views(service.database).read("birds").network.open(service.worker.vault)
    _, last = split_last(served.upper)
    assert [CLASSES[index] for index in present(served)] == ["dodo", "heron", "kiwi"]
    assert not last.weight[[0, 2]].any()


@begins_with()
def test_a_deposit_that_fails_leaves_the_rows_where_they_were(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise ValueError("It cannot be measured.")

    before = holders(service, "auk")
    monkeypatch.setattr("worker.deposit.measure", failing)  # after everything was stored
    deposit_id = service.queue(["auk"])
    service.work(deposit_id)
    assert service.reader.deposit(deposit_id)["state"] == "failed"
    assert holders(service, "auk") == before
    assert is_sound(service)


@begins_with("auk", "emu")
def test_a_model_of_an_earlier_version_answers_the_same_before_and_after_separation(service: Service) -> None:
    """To the last bit, and with the same rows as if this version had stored it."""
    service.administrator.change_policy("birds", scrub="deposit", reason="as earlier versions did")
    expected, places = answers(service), {label: holders(service, label) for label in CLASSES}
    modules = [service.reader.deposit(row)["module_bytes"] for row in service.deposits]
    vault = service.worker.vault
    store_as_earlier_version(service.database, vault)
    assert {kind for label in CLASSES for kind, _ in holders(service, label)} == {"upper"}
    assert answers(service) == expected

    assert separation.separate_all(service.database, vault) == ["birds"]
    assert separation.separate_all(service.database, vault) == []
    assert answers(service) == expected
    for label in CLASSES:
        assert {kind for kind, _ in holders(service, label)} == {kind for kind, _ in places[label]}
    for row, before in zip(service.deposits, modules, strict=True):
        after = service.reader.deposit(row)["module_bytes"]
        assert before is not None
        assert after is not None
        assert 0 < before - after < 40  # an earlier version's module does not say which classes it knows
    [event] = service.auditor.audit_events(action="model.rows_separated")
    assert (event["actor"], event["model"], event["details"]["destroyed_rows"]) == ("worker", "birds", [])
    assert is_sound(service)


@begins_with("auk", "emu")
def test_a_deposit_separates_the_rows_of_an_earlier_version_first(service: Service) -> None:
    store_as_earlier_version(service.database, service.worker.vault)
    third = service.deposit(["kiwi"])
    assert holders(service, "auk") == {("module", service.deposits[0])}
    assert holders(service, "kiwi") == {("module", third)}
    assert len(list(service.auditor.audit_events(action="model.rows_separated"))) == 1
    assert is_sound(service)


@begins_with("auk", "emu")
def test_a_purge_destroys_the_rows_of_an_earlier_version_too(service: Service) -> None:
    store_as_earlier_version(service.database, service.worker.vault)
    assert purge(service, service.deposits[0], "auk")["still_in"] == []
    assert holders(service, "auk") == set()
    assert holders(service, "emu") == {("module", service.deposits[1])}
    [event] = service.auditor.audit_events(action="model.rows_separated")
    assert event["details"]["destroyed_rows"] == ["auk"]
    assert is_sound(service)


@begins_with("auk", "emu")
def test_a_purge_says_if_rows_of_an_earlier_version_are_left(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    store_as_earlier_version(service.database, service.worker.vault)

    def damaged(*_: object) -> None:
        raise VaultDamaged("It cannot be opened.")

    with monkeypatch.context() as patch:
        patch.setattr(separation, "_store", damaged)
        [text] = purge(service, service.deposits[0], "auk")["still_in"]
    assert "still has the rows of the purged classes" in text
    assert separation.separate_all(service.database, service.worker.vault) == ["birds"]
    assert holders(service, "auk") == set()


@begins_with("auk", "emu")
def test_the_rows_of_what_an_earlier_version_purged_are_destroyed(service: Service) -> None:
    store_as_earlier_version(service.database, service.worker.vault)
    with service.database.session() as session, session.begin():  # what a purge of an earlier version did
        model, row = deposits.locked(session, service.deposits[0])
        by = LOCAL_ADMINISTRATOR
        garbage = purges.destroy(session, service.settings, model, row, Requester.of(by), by, "r").garbage
    service.worker.vault.remove(garbage)
    assert holders(service, "auk")
    expected = answers(service)
    separation.separate_all(service.database, service.worker.vault)
    assert holders(service, "auk") == set()
    assert answers(service) == expected
    assert is_sound(service)


@begins_with("auk")
def test_one_damaged_model_does_not_keep_others_from_being_separated(service: Service) -> None:
    service.register("other")
    vault = service.worker.vault
    for name in ("birds", "other"):
        store_as_earlier_version(service.database, vault, name)
    with service.database.reading() as session:
        damaged = deposits.module(session, deposits.get(session, service.deposits[0])).name
    path = service.settings.folder / "vault" / damaged[:2] / damaged
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert separation.separate_all(service.database, vault) == ["other"]
    path.write_bytes(content)
    assert separation.separate_all(service.database, vault) == ["birds"]
    assert is_sound(service)


@begins_with("auk")
def test_nothing_is_separated_that_does_not_read_back_the_same(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_as_earlier_version(service.database, service.worker.vault)
    expected, dump = answers(service), artifacts.dump_module
    other = network(5).lower
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "dump_module", lambda module, own: dump(module.with_lower(other, Grid(16)), own))
        assert separation.separate_all(service.database, service.worker.vault) == []
    assert answers(service) == expected
    assert {kind for kind, _ in holders(service, "auk")} == {"upper"}
    assert is_sound(service)


@begins_with("auk")
def test_a_worker_that_starts_separates_the_rows(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import tasks

    store_as_earlier_version(service.database, service.worker.vault)
    monkeypatch.setattr(tasks, "_work", lambda: service.worker)
    tasks._prepare()
    [thread] = [thread for thread in threading.enumerate() if thread.name == "separation"]
    thread.join()
    assert holders(service, "auk") == {("module", service.deposits[0])}


@begins_with("auk")
def test_what_changes_during_a_separation_is_separated_as_it_is_then(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes separate one model, and the faster one has ended before the other publishes."""
    store_as_earlier_version(service.database, service.worker.vault)
    store = separation._store

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(separation, "_store", store)
        made = store(*arguments)
        separation.separate_all(service.database, service.worker.vault)
        return made

    monkeypatch.setattr(separation, "_store", overtaken)
    separation.separate_all(service.database, service.worker.vault)
    assert len(list(service.auditor.audit_events(action="model.rows_separated"))) == 1
    assert holders(service, "auk") == {("module", service.deposits[0])}
    assert is_sound(service)


def separate(work: Work) -> None:
    separation.separate_all(work.database, work.vault)


@pytest.mark.attack
@pytest.mark.processes
@begins_with("auk", "emu")
def test_a_separation_may_die_at_every_durable_step(service: Service) -> None:
    service.administrator.change_policy("birds", scrub="deposit", reason="as earlier versions did")
    expected = answers(service)
    store_as_earlier_version(service.database, service.worker.vault)
    steps = steps_until_death(service, separate, step=None)
    assert steps is not None
    assert steps >= 5
    for step in range(1, steps + 2):
        store_as_earlier_version(service.database, service.worker.vault)
        assert steps_until_death(service, separate, step=step) == step - 1
        assert answers(service) == expected
        separation.separate_all(service.database, service.worker.vault)
        assert holders(service, "auk") == {("module", service.deposits[0])}
    assert answers(service) == expected
    assert is_sound(service)
