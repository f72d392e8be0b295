"""After a purge nothing can read the deposit module, and its classes stay forgotten."""

import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from typer.testing import CliRunner

from app.access.service import Role
from app.cli import main
from app.deposits.tables import DepositRow
from app.inference.engine import InferenceEngine
from app.registry import service as registry
from app.registry.tables import RevisionRow
from app.vault.service import VaultDamaged, stored_object
from app.vault.tables import VaultObjectRow
from app.withdrawals import service as withdrawals
from lirf_client import LirfError
from lirf_core.compute import Compute
from tests.app.conftest import Service, begins_with, started
from tests.app.factories import infer_request
from tests.app.service import allow_every_loss
from tests.lirf_core.factories import SPEC
from worker import deposit as worker_job
from worker.work import Work

REASON = "the licence holder asked for it"


def refusal(service: Service, deposit_id: str, classes: list[str]) -> str:
    with pytest.raises(LirfError) as refused:
        service.administrator.purge(deposit_id, classes=classes, reason=REASON)
    return refused.value.type.removeprefix("urn:lirf:problem:")


def objects(service: Service) -> dict[str, bytes | None]:
    """Wrapped keys by object name."""
    with service.database.reading() as session:
        return {row.name: row.wrapped_key for row in session.scalars(sa.select(VaultObjectRow))}


def purge_after(service: Service, monkeypatch: pytest.MonkeyPatch, step: str, deposit_id: str) -> None:
    """Purge the deposit of auk as soon as this step of the worker's job is done."""
    carry_out = getattr(worker_job, step)

    def purged_after(*arguments: object, **options: object) -> object:
        result = carry_out(*arguments, **options)
        service.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
        return result

    monkeypatch.setattr(worker_job, step, purged_after)


@begins_with("auk", "dodo")
def test_purge_destroys_the_module_and_the_earlier_networks(service: Service) -> None:
    first, second = service.deposits
    with service.database.reading() as session:
        module = stored_object(session, session.get_one(DepositRow, second).module_object_id or "")
        lowers = {row.number: row.lower_object_id for row in session.scalars(sa.select(RevisionRow))}
        older = [stored_object(session, lowers[number]) for number in (0, 1)]
        serving = stored_object(session, lowers[2])
    before = service.reader.infer("birds", infer_request(1))

    purged = service.administrator.purge(second, classes=["dodo"], reason=REASON)

    assert purged["purged_by"] == "administrator"
    assert purged["shred_effective_at"] is None  # no setting says how long backups are kept
    vault, keys = Work(service.settings).vault, objects(service)
    for shredded in (module, *older):
        assert keys[shredded.name] is None
        assert shredded.name not in vault.objects.names()
        with pytest.raises(VaultDamaged):
            vault.read(shredded)
    assert keys[serving.name]
    assert service.reader.infer("birds", infer_request(1))["outputs"] == before["outputs"]
    service.custodian.withdraw([first], holder="h", reason="r")  # the other deposit is unchanged


@begins_with("auk")
def test_purged_classes_cannot_be_withdrawn_purged_or_deposited_again(service: Service) -> None:
    deposit_id = service.deposits[0]
    service.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
    with pytest.raises(LirfError, match="Only training the model again brings its classes back"):
        service.custodian.withdraw([deposit_id], holder="h", reason="r")
    assert refusal(service, deposit_id, ["auk"]) == "module-purged"
    with pytest.raises(LirfError, match="is already deposited"):
        service.queue(["auk"])
    service.deposit(["dodo"])  # the next deposit does not need the module


@begins_with("auk")
def test_classes_and_deposit_say_who_purged_and_why(service: Service) -> None:
    deposit_id = service.deposits[0]
    service.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
    auk = next(one for one in service.auditor.classes("birds") if one["name"] == "auk")
    assert (auk["state"], auk["by"], auk["reason"]) == ("purged", "administrator", REASON)
    deposit = service.reader.deposit(deposit_id)
    assert (deposit["state"], deposit["purged_by"], deposit["purge_reason"]) == ("purged", "administrator", REASON)
    (event,) = (event for event in service.auditor.audit_events() if event["action"] == "deposit.purged")
    assert event["reason"] == REASON
    assert (event["details"] or {})["revisions"] == [0]


@begins_with("auk emu")
def test_purge_needs_the_right_classes_and_no_active_withdrawal(service: Service) -> None:
    deposit_id = service.deposits[0]
    assert refusal(service, deposit_id, ["auk"]) == "classes-not-confirmed"
    withdrawal = service.custodian.withdraw([deposit_id], holder="h", reason="r")
    assert refusal(service, deposit_id, ["auk", "emu"]) == "still-withdrawn"
    service.custodian.revoke(withdrawal["id"])
    assert refusal(service, service.queue(["dodo"]), ["dodo"]) == "not-deposited"
    assert service.administrator.purge(deposit_id, classes=["emu", "auk"], reason=REASON)["classes"] == ["auk", "emu"]


@begins_with("auk")
def test_running_deposit_does_not_bring_a_purged_module_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deposit scrubs the module while it is purged, and would otherwise publish the scrubbed one."""
    first = service.deposits[0]
    purge_after(service, monkeypatch, "scrub", first)
    service.deposit(["dodo"])
    assert service.reader.deposit(first)["state"] == "purged"
    live = {name for name, key in objects(service).items() if key}
    assert Work(service.settings).vault.objects.names() == live
    with service.database.reading() as session:
        module_id = session.get_one(DepositRow, first).module_object_id
        assert session.get_one(VaultObjectRow, module_id).wrapped_key is None


@begins_with("auk")
def test_no_replica_keeps_a_purged_module_in_memory(service: Service) -> None:
    deposit_id = service.deposits[0]
    other = InferenceEngine(
        service.database, Work(service.settings).vault, Compute.for_inference("cpu"), service.settings.cache_bytes
    )
    other.prepare([deposit_id])
    withdrawal = service.custodian.withdraw([deposit_id], holder="h", reason="r")
    other.views.read("birds")
    service.custodian.revoke(withdrawal["id"])
    with service.database.reading() as session:
        module = stored_object(session, session.get_one(DepositRow, deposit_id).module_object_id or "")
    assert module.name in other._networks.object_names() & other.views.object_names()
    service.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
    other.drop_shredded()
    assert module.name not in other._networks.object_names() | other.views.object_names()
    other.close()


@begins_with("auk")
def test_api_process_drops_a_module_that_another_one_purged(service: Service) -> None:
    deposit_id = service.deposits[0]
    with started(service.settings.model_copy(update={"reconcile_seconds": 0.1})) as (_, state):
        engine: InferenceEngine = state["engine"]
        engine.prepare([deposit_id])
        assert engine._networks.object_names()
        service.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
        with service.database.reading() as session:
            module_id = session.get_one(DepositRow, deposit_id).module_object_id
            name = session.get_one(VaultObjectRow, module_id).name
        end = time.monotonic() + 10
        while name in engine._networks.object_names() and time.monotonic() < end:
            time.sleep(0.05)
        assert name not in engine._networks.object_names()


@begins_with("auk")
def test_answer_says_how_long_backups_hold_the_keys(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.settings, "backup_days", 30.0)
    purged = service.administrator.purge(service.deposits[0], classes=["auk"], reason=REASON)
    ends, at = (datetime.fromisoformat(purged[name] or "") for name in ("shred_effective_at", "purged_at"))  # type: ignore[literal-required]
    assert ends - at == timedelta(days=30)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL's files belong to its server
@begins_with("auk")
def test_key_is_in_no_file_of_the_database(service: Service) -> None:
    deposit_id = service.deposits[0]
    with service.database.reading() as session:
        key = stored_object(session, session.get_one(DepositRow, deposit_id).module_object_id or "").wrapped_key
    files = [Path(f"{service.database.url.database}{end}") for end in ("", "-wal")]
    assert any(key in path.read_bytes() for path in files)
    service.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
    assert not any(key in path.read_bytes() for path in files if path.exists())


@begins_with("auk")
def test_withdrawal_that_waits_for_a_purge_is_refused(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    deposit_id = service.deposits[0]
    lock = registry.lock
    purged: list[str] = []

    def purged_first(session: sa.orm.Session, model_id: str) -> registry.ModelRow:
        """By the time a waiting withdrawal gets the model's lock, the purge has happened."""
        if not purged and service.database.url.get_backend_name() != "sqlite":
            purged.append(deposit_id)
            service.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
        return lock(session, model_id)

    monkeypatch.setattr(withdrawals.registry, "lock", purged_first)
    if service.database.url.get_backend_name() == "sqlite":  # SQLite makes one change after the other anyway
        service.administrator.purge(deposit_id, classes=["auk"], reason=REASON)
    with pytest.raises(LirfError, match="Only training the model again brings its classes back"):
        service.custodian.withdraw([deposit_id], holder="h", reason="r")
    service.reader.infer("birds", infer_request(1))


@begins_with("auk")
def test_deposit_goes_on_when_an_older_module_is_purged_before_scrubbing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = service.deposits[0]
    purge_after(service, monkeypatch, "deposit", first)
    second = service.deposit(["dodo"])
    assert service.reader.deposit(second)["attempts"] == 1


def test_command_confirms_classes_with_any_names(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = ["auk, great", "gull", "heron", "owl", "wren"]
    preprocessing = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
    architecture = {"name": SPEC.name, "width": SPEC.width}
    service.operator.register_model("birds", architecture=architecture, classes=classes, preprocessing=preprocessing)
    service.operator.put_weights("birds", service.weights())
    allow_every_loss(service.database, "birds")
    deposit_id = service.deposit(["auk, great", "gull"])
    monkeypatch.setenv("LIRF_API_KEY", service.key_of("purger", Role.ADMINISTRATOR))
    command = ["purge", deposit_id, "--reason", REASON, "--url", service.url]

    wrong = CliRunner().invoke(main, [*command, "--classes", "auk, great, gull"])
    assert wrong.exit_code == 1
    right = CliRunner().invoke(main, command, input='"auk, great", gull\n')
    assert right.exit_code == 0, right.output
    assert service.reader.deposit(deposit_id)["state"] == "purged"
