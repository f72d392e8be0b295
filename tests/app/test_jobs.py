"""Claims, leases and fencing tokens, on both databases."""

import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.base.database import now
from app.deposits.jobs import JOBS, Job
from app.deposits.tables import DepositRow
from app.jobs.machine import LeaseLost
from tests.app.conftest import Service, begins_with
from worker.deposit import work_on
from worker.work import Work


def claim(service: Service, deposit_id: str) -> Job:
    with service.database.session() as session:
        job = JOBS.claim(session, Work(service.settings).vault, service.settings, deposit_id)
    assert job is not None
    return job


def reconcile(service: Service) -> list[str]:
    with service.database.session() as session:
        return JOBS.recover(session, Work(service.settings).vault, service.settings)


def expire_lease(service: Service, deposit_id: str) -> None:
    with service.database.session() as session, session.begin():
        session.execute(
            sa.update(DepositRow).where(DepositRow.id == deposit_id).values(lease_until=now() - timedelta(1))
        )


def actions(service: Service, deposit_id: str) -> list[str]:
    return [event["action"] for event in service.auditor.audit_events(subject=deposit_id)][::-1]


@begins_with()
def test_only_one_of_many_claims_wins(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    won: list[bool] = []
    barrier = threading.Barrier(6)

    def attempt() -> None:
        barrier.wait()
        with service.database.session() as session:
            won.append(JOBS.claim(session, Work(service.settings).vault, service.settings, deposit_id) is not None)

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]


@begins_with()
def test_one_deposit_of_a_model_runs_at_a_time(service: Service) -> None:
    service.register("others", seed=1)
    first, second, other = service.queue(["auk"]), service.queue(["emu"]), service.queue(["auk"], "others")
    claim(service, first)
    with service.database.session() as session:
        assert JOBS.claim(session, Work(service.settings).vault, service.settings, second) is None
    claim(service, other)
    assert service.reader.deposit(second)["state"] == "queued"


@begins_with()
def test_a_lost_worker_is_replaced_and_its_late_writes_change_nothing(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    stale = claim(service, deposit_id)
    assert reconcile(service) == []  # the lease holds
    expire_lease(service, deposit_id)
    assert reconcile(service) == [deposit_id]
    fresh = claim(service, deposit_id)
    assert fresh.token == stale.token + 1

    vault = Work(service.settings).vault
    with service.database.session() as session:
        for write_late in (
            lambda: JOBS.heartbeat(session, service.settings, stale, progress={}),
            lambda: JOBS.fail(session, vault, stale, "too late"),
            lambda: JOBS.confirm_cancelled(session, vault, stale),
            lambda: JOBS.give_back(session, vault, service.settings, stale, None),
        ):
            with pytest.raises(LeaseLost):
                write_late()
    assert service.reader.deposit(deposit_id)["state"] == "running"
    assert actions(service, deposit_id) == [
        "deposit.requested",
        "deposit.started",
        "deposit.requeued",
        "deposit.started",
    ]


@begins_with()
def test_a_stale_worker_cannot_publish(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    work = Work(service.settings)

    publish = JOBS.publish

    def publish_late(*arguments: Any, **options: Any) -> bool:
        expire_lease(service, deposit_id)
        reconcile(service)
        return publish(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:  # a pause between the work and its publication
        patch.setattr(JOBS, "publish", publish_late)
        work_on(work, deposit_id)
    assert service.reader.deposit(deposit_id)["state"] == "queued"
    assert service.reader.model("birds")["revision"] == 0
    service.work(deposit_id)
    assert service.reader.deposit(deposit_id)["revision"] == 1


@begins_with()
def test_deposit_fails_with_the_reason_after_too_many_lost_workers(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    for _ in range(service.settings.max_attempts):
        claim(service, deposit_id)
        expire_lease(service, deposit_id)
        reconcile(service)
    failed = service.reader.deposit(deposit_id)
    assert failed["state"] == "failed"
    assert "The worker was lost 3 times" in (failed["failure"] or "")
    assert actions(service, deposit_id)[-1] == "deposit.failed"
    service.deposit(["auk"])


@begins_with()
def test_a_cancelled_deposit_whose_worker_died_is_cancelled(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    claim(service, deposit_id)
    service.operator.cancel(deposit_id)
    expire_lease(service, deposit_id)
    assert reconcile(service) == []
    assert service.reader.deposit(deposit_id)["state"] == "cancelled"


@begins_with()
def test_queued_deposit_is_announced_again_after_a_while(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    assert reconcile(service) == []
    with service.database.session() as session, session.begin():
        session.execute(sa.update(DepositRow).values(rung_at=now() - timedelta(hours=1)))
    assert reconcile(service) == [deposit_id]
    assert reconcile(service) == []


@begins_with("auk")
def test_repeated_and_late_messages_change_nothing(service: Service) -> None:
    deposit_id = service.deposits[0]
    service.work(deposit_id)
    service.work("01a1fd2a-0000-7000-8000-000000000000")
    assert service.reader.deposit(deposit_id)["attempts"] == 1
    assert service.reader.model("birds")["revision"] == 1
