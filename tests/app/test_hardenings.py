"""A hardening: queued by a deposit or on request, bounded, served while nothing is withdrawn, and destroyed in time."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from app.access.service import Role
from app.base.database import now
from app.cli import main
from app.datasets.tables import DatasetRow
from app.deposits.losses import Losses
from app.hardenings import service as hardenings
from app.hardenings.jobs import JOBS
from app.hardenings.service import Status
from app.hardenings.tables import HardeningRow
from app.jobs.machine import LeaseLost
from app.registry import service as registry
from app.registry.tables import ModelRow
from app.vault.service import Binding
from app.vault.tables import VaultObjectRow
from lirf_client import AwaitingApproval, Client, LirfError
from lirf_core import config as configurations
from tests.app.conftest import Service, on_one_database
from tests.app.factories import CLASSES, infer_request
from tests.app.states import begins_with
from tests.app.test_console import signed_in
from worker.hardening import harden_target

LOWEST = -3.0e38


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configurations, "MIN_HARDENING_STEPS", 4)
    monkeypatch.setattr(configurations, "MAX_HARDENING_STEPS", 4)


def has_hardening(service: Service, policy: str = "served", model: str = "birds") -> None:
    with service.database.session() as session, session.begin():
        session.execute(sa.update(ModelRow).where(ModelRow.name == model).values(hardening=policy))


def harden(service: Service, hardening_id: str | None = None) -> dict[str, Any]:
    """Carry out the newest hardening."""
    hardening_id = hardening_id or service.reader.hardenings("birds")[0]["id"]
    assert harden_target(service.worker, hardening_id)
    return dict(service.reader.hardening(hardening_id))


def logits(client: Client, **parameters: Any) -> list[float]:
    answer = client.infer("birds", infer_request(2, **parameters))
    [output] = (output for output in answer["outputs"] if output["name"] == "logits")
    return list(output["data"])


def is_shredded(service: Service, dataset_id: str) -> bool:
    with service.database.session() as session:
        return session.get_one(DatasetRow, dataset_id).shredded_at is not None


def row(service: Service, hardening_id: str) -> HardeningRow:
    with service.database.session() as session:
        return session.get_one(HardeningRow, hardening_id)


@pytest.fixture
def deposited(service: Service) -> str:
    """A deposit whose hardening waits."""
    has_hardening(service)
    return service.deposit(["auk"])


@begins_with()
def test_a_deposit_queues_a_hardening_which_shreds_the_deposit_set_when_it_ends(
    service: Service, deposited: str
) -> None:
    [queued] = service.reader.hardenings("birds")
    assert (queued["state"], queued["deposit"], queued["revision"]) == ("queued", deposited, 1)
    assert not is_shredded(service, queued["dataset_id"])
    told = service.reader.model("birds")["hardening"]
    assert (told["is_served"], told["state"], told["id"]) == (False, "queued", queued["id"])
    assert "working target" in told["why_not"]

    working = logits(service.reader)
    finished = harden(service)
    assert (finished["state"], finished["is_served"]) == ("finished", True)
    assert is_shredded(service, queued["dataset_id"])
    told = service.reader.model("birds")["hardening"]
    assert (told["is_served"], told["why_not"]) == (True, None)
    hardened = logits(service.reader)
    assert len(hardened) == len(working) == 2 * len(CLASSES)
    assert hardened[1:5] != working[1:5]
    for answered in (hardened, logits(service.auditor, raw=True)):
        assert max(answered[0], answered[5]) < LOWEST
    actions = [event["action"] for event in service.auditor.audit_events(subject=queued["id"])]
    assert sorted(actions) == ["hardening.finished", "hardening.requested", "hardening.started"]


@begins_with()
def test_withdrawals_answer_as_without_hardening(service: Service, deposited: str) -> None:
    withdrawal = service.custodian.withdraw([deposited], holder="h", reason="r")
    before = logits(service.reader)
    harden(service)
    assert logits(service.reader) == before
    service.custodian.revoke(withdrawal["id"])
    assert logits(service.reader) != before
    service.custodian.restore(deposited, reason="r")
    assert logits(service.reader) == before


@begins_with()
def test_a_later_deposit_ends_the_hardening_of_the_revision_before(service: Service, deposited: str) -> None:
    first = service.reader.hardenings("birds")[0]
    service.deposit(["dodo"])
    second, ended = service.reader.hardenings("birds")
    assert (ended["id"], ended["state"]) == (first["id"], "cancelled")
    assert is_shredded(service, first["dataset_id"])
    harden(service)
    service.deposit(["emu"])
    third, replaced, _ = service.reader.hardenings("birds")
    assert (third["state"], replaced["id"], replaced["state"]) == ("queued", second["id"], "finished")
    assert replaced["shredded_at"]
    assert not replaced["is_served"]
    assert not service.reader.model("birds")["hardening"]["is_served"]
    assert max(logits(service.reader)[:3]) < LOWEST


@begins_with(has_evaluation_set=True)
def test_a_hardening_beyond_the_bounds_leaves_the_working_target_in_service(service: Service, deposited: str) -> None:
    working = logits(service.reader)
    with service.database.session() as session, session.begin():  # no policy is so strict
        session.execute(sa.update(ModelRow).values(max_preserved_loss=-200.0))
    [queued] = service.reader.hardenings("birds")
    ended = harden(service, queued["id"])
    assert ended["state"] == "failed"
    assert "of the preserved classes" in ended["failure"]
    assert "lirf policy birds" in ended["failure"]
    assert ended["losses"]["preserved"]
    told = service.reader.model("birds")["hardening"]
    assert (told["is_served"], told["why_not"]) == (False, ended["failure"])
    assert logits(service.reader) == working
    assert is_shredded(service, queued["dataset_id"])
    assert list(service.auditor.audit_events(subject=queued["id"], action="hardening.failed"))


@begins_with()
def test_the_policy_says_what_is_served(service: Service, deposited: str) -> None:
    working = logits(service.reader)
    harden(service)
    hardened = logits(service.reader)
    service.administrator.change_policy("birds", reason="r", hardening="export")
    assert logits(service.reader) == working
    assert "kept but not served" in service.reader.model("birds")["hardening"]["why_not"]
    service.administrator.change_policy("birds", reason="r", hardening="served")
    assert logits(service.reader) == hardened
    service.administrator.change_policy("birds", reason="r", hardening="none")
    service.deposit(["dodo"])
    assert len(service.reader.hardenings("birds")) == 1
    with pytest.raises(LirfError, match="hardening: none"):
        service.operator.request_hardening("birds")


@begins_with("auk")
def test_a_hardening_can_be_requested_with_images_of_deposited_classes(service: Service) -> None:
    has_hardening(service)
    with pytest.raises(LirfError, match="Upload images of 'auk'") as refused:
        service.operator.request_hardening("birds")
    assert refused.value.type.endswith("transfer-set-missing")
    wrong = service.operator.upload_dataset("birds", service.archive(["auk", "emu"]))
    with pytest.raises(LirfError, match="'emu'"):
        service.operator.request_hardening("birds", dataset_id=wrong["id"])
    images = service.operator.upload_dataset("birds", service.archive(["auk"]))
    for config in ({"epochs": 0}, {"noise_upper": 1.5}, {"momentum": 0.5}):
        with pytest.raises(LirfError, match="config"):
            service.operator.request_hardening("birds", dataset_id=images["id"], config=config)
    requested = service.operator.request_hardening("birds", dataset_id=images["id"], config={"epochs": 1})
    with pytest.raises(LirfError, match="Follow it, or cancel it"):
        service.operator.request_hardening("birds", dataset_id=images["id"])
    with pytest.raises(LirfError, match="uses data set"):
        service.operator.discard_dataset("birds", images["id"])
    assert harden(service, requested["id"])["is_served"]
    first = logits(service.reader)
    images = service.operator.upload_dataset("birds", service.archive(["auk"]))
    again = service.operator.request_hardening(
        "birds", dataset_id=images["id"], keep_dataset=True, config={"epochs": 1, "seed": 1}
    )
    harden(service, again["id"])
    assert logits(service.reader) != first
    assert not is_shredded(service, images["id"])
    assert service.reader.hardening(requested["id"])["shredded_at"]


@begins_with()
def test_a_model_without_deposits_has_nothing_to_harden(service: Service) -> None:
    has_hardening(service)
    with pytest.raises(LirfError, match="Deposit a class first"):
        service.operator.request_hardening("birds")
    assert "No class is deposited" in (service.reader.model("birds")["hardening"]["why_not"] or "")


@begins_with()
def test_a_cancelled_hardening_publishes_nothing(service: Service, deposited: str) -> None:
    [queued] = service.reader.hardenings("birds")
    with service.database.session() as session:
        job = JOBS.claim(session, service.worker.vault, service.settings, queued["id"])
    assert job
    assert service.operator.cancel_hardening(queued["id"])["state"] == "cancelled"
    assert is_shredded(service, queued["dataset_id"])
    with pytest.raises(LirfError, match="cancelled"):
        service.operator.cancel_hardening(queued["id"])
    demand_stale(service, job)
    assert not harden_target(service.worker, queued["id"])


@begins_with()
def test_a_stale_worker_publishes_nothing(service: Service, deposited: str) -> None:
    [queued] = service.reader.hardenings("birds")
    with service.database.session() as session:
        job = JOBS.claim(session, service.worker.vault, service.settings, queued["id"])
    assert job
    with service.database.session() as session, session.begin():
        session.execute(sa.update(HardeningRow).values(lease_until=now() - timedelta(1)))
    with service.database.session() as session:
        assert JOBS.recover(session, service.worker.vault, service.settings) == [queued["id"]]
    demand_stale(service, job)
    assert harden(service)["is_served"]
    demand_stale(service, job)


def demand_stale(service: Service, job: Any) -> None:
    stored = service.worker.vault.put(Binding("hardened", job.model_id, job.id), [b"x"])
    with service.database.session() as session, pytest.raises(LeaseLost):
        JOBS.publish(session, service.worker.vault, job, stored, Losses())
    with pytest.raises(FileNotFoundError):
        service.worker.vault.objects.open(stored.name).__enter__()


@begins_with()
def test_a_purge_ends_a_hardening_that_learns_from_the_classes(service: Service, deposited: str) -> None:
    [queued] = service.reader.hardenings("birds")
    service.administrator.purge(deposited, classes=["auk"], reason="r")
    assert service.reader.hardening(queued["id"])["state"] == "cancelled"
    assert is_shredded(service, queued["dataset_id"])


@begins_with()
def test_a_purge_leaves_the_hardened_network_which_never_knew_the_classes(service: Service, deposited: str) -> None:
    harden(service)
    hardened = logits(service.reader)
    service.administrator.purge(deposited, classes=["auk"], reason="r")
    assert logits(service.reader) == hardened


@begins_with()
def test_a_removal_destroys_the_hardened_network(service: Service, deposited: str) -> None:
    name = row(service, harden(service)["id"])
    service.administrator.remove_model("birds", confirm="birds", reason="r")
    removed = row(service, name.id)
    assert removed.shredded_at


@on_one_database
@begins_with()
def test_command_and_console_show_what_answers(
    service: Service, deposited: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIRF_URL", service.url)
    monkeypatch.setenv("LIRF_API_KEY", service.administrator._http.headers["Authorization"].removeprefix("Bearer "))

    def command(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, list(arguments), env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return result.output

    [queued] = service.reader.hardenings("birds")
    with signed_in(service, Role.OPERATOR) as client:
        page = client.get("/console/models/birds").text
        assert "working target" in page
        assert "Cancel the hardening" in page
        assert "Until it has finished" in client.get(f"/console/deposits/{deposited}").text
        client.post(f"/console/hardenings/{queued['id']}/cancellation")
        assert "Harden again" in client.get("/console/models/birds").text
        assert client.post("/console/models/birds/hardenings").status_code == 409
    assert "shredded" in command("harden", "birds", code=1)
    images = service.operator.upload_dataset("birds", service.archive(["auk"]))
    requested = command("harden", "birds", "--dataset", images["id"], "--no-wait", "--config", '{"noise_upper": 0.5}')
    assert "queued" in requested
    assert harden(service)["is_served"]
    assert "the hardened network" in command("hardenings", "birds")
    assert "hardened network answers" in command("policy", "birds")
    assert "not hardened" in command("policy", "birds", "--hardening", "none", "--reason", "r")
    assert "ended" in command("cancel-hardening", queued["id"], code=1)
    with signed_in(service, Role.OPERATOR, name="other") as client:
        assert "kept but not served" in client.get("/console/models/birds").text


@begins_with()
def test_after_a_purge_the_hardened_network_can_become_the_base(service: Service, deposited: str) -> None:
    with pytest.raises(LirfError, match=deposited) as refused:
        service.administrator.make_base("birds", confirm="birds", reason="r")
    assert refused.value.members["deposits"] == [deposited]
    harden(service)
    hardened = logits(service.reader)
    purged = service.administrator.purge(deposited, classes=["auk"], reason="r")
    assert "sealed upper part" in purged["rest"]["what"]
    assert "lirf new-base birds" in purged["rest"]["cure"]
    assert purged["rest"]["deposits"] == []
    with service.database.session() as session, session.begin():
        old = set(session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_not(None))))

    based = service.administrator.make_base("birds", confirm="birds", reason="r")
    assert (based["revision"], based["destroyed_revisions"], based["still_in"]) == (2, [1], [])
    assert logits(service.reader) == pytest.approx(hardened, abs=1e-5)
    with service.database.session() as session, session.begin():
        left = set(session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_not(None))))
    assert not left & old
    for name in old:
        with pytest.raises(FileNotFoundError):
            service.worker.vault.objects.open(name).__enter__()
    [event] = service.auditor.audit_events(action="model.new_base")
    assert event["reason"] == "r"
    assert "became the base" in (service.reader.model("birds")["hardening"]["why_not"] or "")

    again = service.deposit(["dodo"])
    assert max(logits(service.reader)[:2]) < LOWEST
    service.custodian.withdraw([again], holder="h", reason="r")
    answered = logits(service.reader)
    assert answered[0] < LOWEST < answered[1]


@begins_with("auk")
def test_a_purge_names_the_deposits_that_stand_in_the_way_of_a_new_base(service: Service) -> None:
    has_hardening(service)
    [auk] = service.deposits
    dodo = service.deposit(["dodo"])
    purged = service.administrator.purge(auk, classes=["auk"], reason="r")
    assert purged["rest"]["deposits"] == [dodo]
    assert dodo in purged["rest"]["cure"]


@begins_with("auk")
def test_a_new_base_takes_two_persons_if_the_policy_says_so(service: Service) -> None:
    has_hardening(service)
    [auk] = service.deposits
    images = service.operator.upload_dataset("birds", service.archive(["auk"]))
    harden(service, service.operator.request_hardening("birds", dataset_id=images["id"], config={"epochs": 1})["id"])
    service.administrator.purge(auk, classes=["auk"], reason="r")
    service.administrator.change_policy("birds", reason="two", needs_second_person=True)
    with pytest.raises(AwaitingApproval) as awaiting:
        service.administrator.make_base("birds", confirm="birds", reason="r")
    other = Client(service.url, service.key_of("other", Role.ADMINISTRATOR))
    late = Client(service.url, service.key_of("late", Role.OPERATOR))
    with pytest.raises(LirfError):
        late.approve(awaiting.value.approval["id"])
    with pytest.raises(LirfError, match="newer than the request"):
        other.approve(awaiting.value.approval["id"])
    assert service.reader.model("birds")["revision"] == 1
    with pytest.raises(AwaitingApproval) as again:  # now the other key is older than the request
        service.administrator.make_base("birds", confirm="birds", reason="r")
    other.approve(again.value.approval["id"])
    assert service.reader.model("birds")["revision"] == 2
    [event] = service.auditor.audit_events(action="model.new_base")
    assert (event["actor"], event["details"]["requested_by"]) == ("other", "administrator")


@on_one_database
@begins_with("auk")
def test_a_new_base_needs_the_name_of_the_model(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIRF_URL", service.url)
    monkeypatch.setenv("LIRF_API_KEY", service.administrator._http.headers["Authorization"].removeprefix("Bearer "))
    with pytest.raises(LirfError) as refused:
        service.administrator.make_base("birds", confirm="bird", reason="r")
    assert refused.value.type.endswith(":name-not-confirmed")
    assert service.reader.model("birds")["revision"] == 1
    invoked = CliRunner().invoke(main, ["new-base", "birds", "--reason", "r"], input="bird\n")
    assert (invoked.exit_code, "cannot be undone" in invoked.output) == (1, True), invoked.output
    with signed_in(service, Role.ADMINISTRATOR, name="other") as client:
        page = client.post("/console/models/birds/base", data={"confirmation": "bird", "reason": "r"})
        assert page.status_code == 422


@begins_with("auk")
def test_a_list_of_models_takes_the_same_queries_for_one_and_for_many(service: Service) -> None:
    service.register("ducks")
    service.describe("geese")
    has_hardening(service, "export")

    def read(names: list[str]) -> tuple[list[Status], int]:
        count = 0

        def tell(*_: object) -> None:
            nonlocal count
            count += 1

        with service.database.session() as session:
            models = [registry.get(session, name) for name in names]
            sa.event.listen(service.database.engine, "before_cursor_execute", tell)
            found = hardenings.statuses(session, models)
            sa.event.remove(service.database.engine, "before_cursor_execute", tell)
        return [found[model.id] for model in models], count

    one, queries = read(["birds"])
    three, queries_of_three = read(["birds", "ducks", "geese"])
    assert queries_of_three == queries
    assert one == three[:1]
    assert "was never hardened" in (one[0].why_not or "")
    assert [status.why_not for status in three[1:]] == ["No class is deposited, so there is no target to harden."] * 2
    listed = {model["name"]: model["hardening"] for model in service.reader.models()}
    assert listed["birds"] == service.reader.model("birds")["hardening"]
