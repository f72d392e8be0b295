"""A worker that dies before any durable step of a job, or after the last, loses nothing and leaves nothing half done.

Durable steps are counted in a job that goes well, so that a step which is new is attacked, too.
"""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from app.access.service import LOCAL_ADMINISTRATOR
from app.base.database import now
from app.hardenings import base
from app.hardenings.jobs import JOBS as HARDENINGS
from app.hardenings.tables import HardeningRow
from app.rebases.jobs import JOBS as REBASES
from app.rebases.tables import RebaseRow
from app.vault import maintenance
from tests.app.conftest import Service
from tests.app.crashes import steps_until_death
from tests.app.factories import infer_request
from tests.app.test_jobs import expire_lease, reconcile
from worker.deposit import work_on
from worker.hardening import harden_target
from worker.rebase import rebase_model
from worker.work import Work


def deposits_of(service: Service, model: str) -> tuple[str, str]:
    """A finished deposit and a queued job of two groups, whose work also scrubs the first."""
    service.register(model)
    return service.deposit(["auk"], model), service.queue(["dodo", "emu"], model, groups=[["dodo"], ["emu"]])


def made_by(service: Service, job_id: str) -> list[str]:
    return [group["deposit"] for group in service.reader.deposit(job_id)["groups"]]


@pytest.mark.attack
@pytest.mark.processes
@pytest.mark.timeout(1200)
def test_a_worker_may_die_at_every_durable_step(service: Service) -> None:
    service.settings.max_attempts = 3
    steps = steps_until_death(service, work_on, deposits_of(service, "counted")[1], step=None)
    assert steps is not None
    assert steps > 10
    for step in range(1, steps + 2):  # the last: at the end
        model = f"died-{step}"
        first, second = deposits_of(service, model)
        for time in range(2):
            taken = steps_until_death(service, work_on, second, step=step)
            assert taken == step - 1 or time, model  # the second time, a checkpoint may have shortened the work
            is_published = service.reader.model(model)["revision"] == 2
            check(service, model, [first, *made_by(service, second)] if is_published else [first])
            if service.reader.deposit(second)["state"] == "running":
                expire_lease(service, second)
            reconcile(service)
        service.work(second)
        assert len(made_by(service, second)) == 2
        check(service, model, [first, *made_by(service, second)])

    work = Work(service.settings)
    maintenance.gc(work.database, work.vault, grace=timedelta(0))
    assert maintenance.check(work.database, work.vault) == []
    assert service.auditor.verify_audit()["is_intact"]


@pytest.mark.attack
@pytest.mark.processes
@pytest.mark.timeout(1200)
def test_a_worker_may_die_at_every_durable_step_of_a_rebase(service: Service) -> None:
    service.settings.max_attempts = 3
    service.register()
    held = [service.deposit([name], keep_dataset=True) for name in ("auk", "dodo")]

    def queued() -> str:
        config = {"epochs": 1, "batch_size": 4, "proxies": 0}
        return service.operator.request_rebase("birds", reason="r", config=config)["id"]

    steps = steps_until_death(service, rebase_model, queued(), step=None)
    assert steps is not None
    assert steps > 10
    for step in range(1, steps + 2):  # the last: at the end
        rebase_id, before = queued(), service.reader.model("birds")["revision"]
        for time in range(2):
            taken = steps_until_death(service, rebase_model, rebase_id, step=step)
            assert taken == step - 1 or time
            is_published = service.reader.rebase(rebase_id)["state"] == "finished"
            assert service.reader.model("birds")["revision"] == before + is_published
            with service.database.session() as session:
                with session.begin():
                    expired = sa.update(RebaseRow).where(RebaseRow.state == "running")
                    session.execute(expired.values(lease_until=now() - timedelta(1)))
                REBASES.recover(session, service.worker.vault, service.settings)
        rebase_model(service.worker, rebase_id)
        assert service.reader.rebase(rebase_id)["state"] == "finished"
        assert len(list(service.auditor.audit_events(subject=rebase_id, action="rebase.finished"))) == 1
        assert service.reader.model("birds")["revision"] == before + 1
        assert {service.reader.deposit(one)["module_revision"] for one in held} == {before + 1}
        withdrawal = service.custodian.withdraw(held, holder="h", reason="r")
        assert service.reader.infer("birds", infer_request(1))["parameters"]["withdrawals"] == [withdrawal["id"]]
        service.custodian.revoke(withdrawal["id"])
    work = Work(service.settings)
    maintenance.gc(work.database, work.vault, grace=timedelta(0))
    assert maintenance.check(work.database, work.vault) == []
    assert service.auditor.verify_audit()["is_intact"]


@pytest.mark.attack
@pytest.mark.processes
@pytest.mark.timeout(1200)
def test_a_worker_may_die_at_every_durable_step_of_a_hardening(service: Service) -> None:
    service.settings.max_attempts = 3
    service.register()
    service.administrator.change_policy("birds", reason="r", hardening="served")
    deposit_id = service.deposit(["auk"], keep_dataset=True)
    service.operator.cancel_hardening(service.reader.hardenings("birds")[0]["id"])

    def queued() -> str:
        config = {"epochs": 1, "proxies": 0}
        return service.operator.request_hardening("birds", keep_dataset=True, config=config)["id"]

    steps = steps_until_death(service, harden_target, queued(), step=None)
    assert steps is not None
    assert steps > 5
    for step in range(1, steps + 2):  # the last: at the end
        hardening_id = queued()
        for time in range(2):
            taken = steps_until_death(service, harden_target, hardening_id, step=step)
            assert taken == step - 1 or time
            answer = service.reader.infer("birds", infer_request(1))
            assert answer["parameters"]["revision"] == 1
            with service.database.session() as session:
                with session.begin():
                    expired = sa.update(HardeningRow).where(HardeningRow.state == "running")
                    session.execute(expired.values(lease_until=now() - timedelta(1)))
                HARDENINGS.recover(session, service.worker.vault, service.settings)
        harden_target(service.worker, hardening_id)
        assert service.reader.hardening(hardening_id)["is_served"]
        assert len(list(service.auditor.audit_events(subject=hardening_id, action="hardening.finished"))) == 1
    check(service, "birds", [deposit_id])
    work = Work(service.settings)
    maintenance.gc(work.database, work.vault, grace=timedelta(0))
    assert maintenance.check(work.database, work.vault) == []
    assert service.auditor.verify_audit()["is_intact"]


@pytest.mark.attack
@pytest.mark.processes
@pytest.mark.timeout(1200)
def test_a_process_may_die_at_every_durable_step_of_a_new_base(service: Service) -> None:
    def hardened(model: str) -> None:
        service.register(model)
        service.administrator.change_policy(model, reason="r", hardening="served")
        deposit_id = service.deposit(["auk"], model)
        harden_target(service.worker, service.reader.hardenings(model)[0]["id"])
        service.administrator.purge(deposit_id, classes=["auk"], reason="r")

    hardened("counted")
    steps = steps_until_death(service, new_base, "counted", step=None)
    assert steps is not None
    assert steps > 5
    for step in range(1, steps + 2):  # the last: at the end
        model = f"died-{step}"
        hardened(model)
        for time in range(2):
            taken = steps_until_death(service, new_base, model, step=step)
            assert taken == step - 1 or time  # the second time, it may be refused, since it was made
            described = service.reader.model(model)
            assert described["revision"] in (1, 2)
            assert described["hardening"]["is_served"] is (described["revision"] == 1)
            assert service.reader.infer(model, infer_request(1))["parameters"]["revision"] == described["revision"]
        if service.reader.model(model)["revision"] == 1:
            service.administrator.make_base(model, confirm=model, reason="r")
        assert len(list(service.auditor.audit_events(model=model, action="model.new_base"))) == 1
    work = Work(service.settings)
    maintenance.gc(work.database, work.vault, grace=timedelta(0))
    assert maintenance.check(work.database, work.vault) == []
    assert service.auditor.verify_audit()["is_intact"]


def new_base(work: Work, model: str) -> bool:
    with work.database.session() as session:
        base.make_base(session, work.database, work.vault, work.settings, LOCAL_ADMINISTRATOR, model, model, "r")
    return True


def check(service: Service, model: str, held: list[str]) -> None:
    """Exactly these deposits are made: their modules are there, and their classes answer when they are withdrawn."""
    revisions = {service.reader.deposit(deposit_id)["revision"] for deposit_id in held}
    assert service.reader.model(model)["revision"] == len(revisions)
    deposited = {item["deposit_id"] for item in service.reader.classes(model) if item["state"] == "deposited"}
    assert deposited == set(held)
    for deposit_id in held:
        assert service.reader.deposit(deposit_id)["state"] == "deposited"
        finished = list(service.auditor.audit_events(subject=deposit_id, action="deposit.finished"))
        assert len(finished) == 1
    withdrawal = service.custodian.withdraw(held, holder="h", reason="r")
    answer = service.reader.infer(model, infer_request(1))
    assert answer["parameters"]["withdrawals"] == [withdrawal["id"]]
    service.custodian.revoke(withdrawal["id"])
