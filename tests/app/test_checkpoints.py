"""A deposit that was interrupted goes on where it was; what it needed for that is gone when it ends."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.deposits.jobs import JOBS, TARGET
from app.deposits.tables import DepositRow
from app.jobs.tables import CheckpointRow
from app.vault.tables import VaultObjectRow
from lirf_core.compute import OutOfMemory
from tests.app.conftest import Service, begins_with
from tests.app.test_jobs import actions, expire_lease, reconcile
from worker.work import Work

STEPS = {"config": {"epochs": 4}}  # one step each


class Killed(BaseException):
    """Stands for the death of the process: nothing is done after it."""


@pytest.fixture
def eager(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Every step is told, and leaves a checkpoint."""
    service.settings.checkpoint_seconds = 1e-9
    monkeypatch.setattr("worker.heartbeat.HEARTBEAT_SECONDS", 0)
    return service


def die_after(service: Service, deposit_id: str, count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Works until so many checkpoints are kept, and dies; returns the parts that they were of."""
    parts: list[str] = []
    keep = JOBS.keep_checkpoint

    def kept(*arguments: Any) -> None:
        keep(*arguments)
        parts.append(arguments[4])
        if len(parts) == count:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(JOBS, "keep_checkpoint", kept)
        patch.setattr(JOBS, "give_back", lambda *_: None)
        with pytest.raises(Killed):
            service.work(deposit_id)
    expire_lease(service, deposit_id)
    assert reconcile(service) == [deposit_id]
    return parts


def finish(service: Service, deposit_id: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Works to the end; returns the phases and steps of what was trained."""
    seen: list[tuple[str, int]] = []
    heartbeat = JOBS.heartbeat

    def counted(*arguments: Any, progress: dict[str, Any], **values: Any) -> None:
        if "step" in progress and (progress["phase"], progress["step"]) not in seen:
            seen.append((progress["phase"], progress["step"]))
        heartbeat(*arguments, progress=progress, **values)

    with monkeypatch.context() as patch:
        patch.setattr(JOBS, "heartbeat", counted)
        service.work(deposit_id)
    assert service.reader.deposit(deposit_id)["state"] == "deposited"
    return seen


def kept_checkpoints(service: Service) -> int:
    with service.database.session() as session:
        rows = session.scalar(sa.select(sa.func.count()).select_from(CheckpointRow)) or 0
        is_one = VaultObjectRow.kind == "checkpoint"
        objects = session.scalar(sa.select(sa.func.count()).select_from(VaultObjectRow).where(is_one))
        named = set(session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_not(None))))
    assert rows == objects
    assert Work(service.settings).vault.objects.names() >= named
    return rows


def garbage(service: Service) -> set[str]:
    with service.database.session() as session:
        named = set(session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_not(None))))
    return Work(service.settings).vault.objects.names() - named


def test_a_deposit_whose_worker_died_goes_on_after_its_last_checkpoint(
    eager: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager.register()
    deposit_id = eager.queue(["auk"], **STEPS)
    die_after(eager, deposit_id, 3, monkeypatch)
    assert kept_checkpoints(eager) == 1
    assert finish(eager, deposit_id, monkeypatch) == [("training", 4)]
    assert kept_checkpoints(eager) == 0
    assert not garbage(eager)
    with eager.database.session() as session:
        curve = session.get_one(DepositRow, deposit_id).curve or {}
    assert curve["step"] == [1, 2, 3, 4]  # the losses of the steps before are kept
    assert {len(values) for values in curve.values()} == {4}


@begins_with("auk", "dodo")
def test_finished_training_is_not_repeated_when_scrubbing_is_interrupted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where checkpoints are rare, one is kept whenever another training follows."""
    monkeypatch.setattr("worker.heartbeat.HEARTBEAT_SECONDS", 0)
    first, second = service.deposits
    third = service.queue(["emu"], **STEPS)
    assert die_after(service, third, 2, monkeypatch) == [TARGET, first]
    assert finish(service, third, monkeypatch) == [("scrubbing", step) for step in (1, 2, 3, 4)]
    assert kept_checkpoints(service) == 0
    for deposit_id in (first, second, third):
        service.custodian.withdraw([deposit_id], holder="h", reason="r")


def test_checkpoint_that_does_not_open_only_costs_time(eager: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    eager.register()
    deposit_id = eager.queue(["auk"], **STEPS)
    die_after(eager, deposit_id, 2, monkeypatch)
    with eager.database.session() as session:
        name = session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.kind == "checkpoint")).one()
    (path,) = Path(eager.settings.folder / "vault").rglob(name)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert finish(eager, deposit_id, monkeypatch) == [("training", step) for step in (1, 2, 3, 4)]
    assert kept_checkpoints(eager) == 0


@pytest.mark.parametrize("end", ["cancelled while queued", "cancelled while running", "failed"])
def test_checkpoints_are_removed_when_the_deposit_ends_without_a_result(
    end: str, eager: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager.register()
    deposit_id = eager.queue(["auk"], **STEPS)
    die_after(eager, deposit_id, 2, monkeypatch)
    if end == "cancelled while queued":
        eager.operator.cancel(deposit_id)
    elif end == "cancelled while running":
        keep = JOBS.keep_checkpoint

        def cancelled(*arguments: Any) -> None:
            eager.operator.cancel(deposit_id)
            keep(*arguments)

        monkeypatch.setattr(JOBS, "keep_checkpoint", cancelled)
        eager.work(deposit_id)
    else:
        for _ in range(2):
            die_after_claim(eager, deposit_id, monkeypatch)
    assert eager.reader.deposit(deposit_id)["state"] == end.split()[0]
    assert kept_checkpoints(eager) == 0
    assert not garbage(eager)


def die_after_claim(service: Service, deposit_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with service.database.session() as session:
        assert JOBS.claim(session, Work(service.settings).vault, service.settings, deposit_id)
    expire_lease(service, deposit_id)
    reconcile(service)


def test_purge_removes_a_running_deposits_checkpoint_of_the_module(
    eager: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager.register()
    first = eager.deposit(["auk"])
    second = eager.queue(["dodo"], **STEPS)
    assert die_after(eager, second, 6, monkeypatch)[-1] == first
    assert kept_checkpoints(eager) == 2
    eager.administrator.purge(first, classes=["auk"], reason="asked for")
    assert kept_checkpoints(eager) == 1
    finish(eager, second, monkeypatch)
    assert kept_checkpoints(eager) == 0


def test_deposit_starts_over_if_another_one_replaced_its_network(
    eager: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would bring back what the other one took out."""
    eager.register()
    first, second = eager.queue(["auk"], **STEPS), eager.queue(["dodo"], **STEPS)
    die_after(eager, first, 2, monkeypatch)
    eager.work(second)
    assert eager.reader.deposit(second)["state"] == "deposited"
    assert kept_checkpoints(eager) == 0
    assert finish(eager, first, monkeypatch)[:4] == [("training", step) for step in (1, 2, 3, 4)]
    assert eager.reader.deposit(first)["revision"] == 2


def test_no_checkpoint_of_a_purged_module_is_kept(eager: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    eager.register()
    first = eager.deposit(["auk"])
    second = eager.queue(["dodo"], **STEPS)
    keep, seen = JOBS.keep_checkpoint, []

    def purged_before(*arguments: Any) -> None:
        if arguments[4] == first and not seen:
            eager.administrator.purge(first, classes=["auk"], reason="asked for")
        keep(*arguments)
        if arguments[4] == first:
            seen.append(kept_checkpoints(eager))

    monkeypatch.setattr(JOBS, "keep_checkpoint", purged_before)
    eager.work(second)
    assert seen == [1, 1, 1, 1]
    assert eager.reader.deposit(second)["state"] == "deposited"


def test_a_device_with_too_little_memory_gets_half_the_batch_once(
    eager: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager.register()
    deposit_id = eager.queue(["auk"], config={"epochs": 4, "batch_size": 4, "proxy_batch": 64})
    die_after(eager, deposit_id, 2, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("worker.deposit.deposit", out_of_memory)
        eager.work(deposit_id)
    again = eager.reader.deposit(deposit_id)
    assert (again["state"], again["config"]["batch_size"], again["config"]["proxy_batch"]) == ("queued", 2, 32)
    assert again["attempts"] == 1  # the death; memory is none
    assert len(finish(eager, deposit_id, monkeypatch)) == 8  # from the start: two steps an epoch now


@begins_with()
def test_deposit_fails_with_advice_if_half_the_batch_needs_too_much_memory(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposit_id = service.queue(["auk"], config={"batch_size": 8})
    monkeypatch.setattr("worker.deposit.deposit", out_of_memory)
    for _ in range(2):
        service.work(deposit_id)
    failed = service.reader.deposit(deposit_id)
    assert failed["state"] == "failed"
    assert "too little memory for a batch_size of 4. Ask for a smaller batch_size" in failed["failure"]
    assert actions(service, deposit_id).count("deposit.requeued") == 1


def out_of_memory(*_: object) -> None:
    raise OutOfMemory("tried to allocate 20.00 GiB")


@begins_with()
def test_a_deposit_that_takes_too_long_fails_with_advice(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    service.settings.time_limit_seconds = 1e-6
    service.work(deposit_id)
    failed = service.reader.deposit(deposit_id)
    assert failed["state"] == "failed"
    assert "raise LIRF_TIME_LIMIT_SECONDS" in failed["failure"]
    assert service.reader.model("birds")["revision"] == 0
