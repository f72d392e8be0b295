"""A removed model is gone for good: nothing of it can be decrypted, nothing answers, and the audit keeps its story."""

from itertools import count

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from typer.testing import CliRunner

from app.access.service import LOCAL_ADMINISTRATOR, Role
from app.certificates.signatures import verified
from app.cli import main
from app.inference.engine import InferenceEngine
from app.jobs.tables import CheckpointRow
from app.registry.service import ModelRemoved
from app.removals import service as removals
from app.vault import erasure
from lirf_client import AwaitingApproval, Client, LirfError
from lirf_core.compute import Compute
from tests.app.conftest import Service, begins_with, on_one_database
from tests.app.crashes import steps_until_death
from tests.app.factories import infer_request
from tests.app.states import without_training_attacks
from tests.app.test_erasure import files_with, finish, keys
from worker.work import Work

REASON = "the service ends"


def remove(service: Service, name: str = "birds") -> None:
    removed = service.administrator.remove_model(name, confirm=name, reason=REASON)
    assert (removed["model"], removed["removed_by"], removed["reason"]) == (name, "administrator", REASON)
    assert removed["still_in"] == []


def refused(service: Service, **query: str) -> tuple[int, str]:
    with pytest.raises(LirfError) as error:
        service.administrator._call("DELETE", "/v1/models/birds", params=query)
    return error.value.status, error.value.type.removeprefix("urn:lirf:problem:")


def check_destroyed(service: Service, before: dict[str, bytes]) -> None:
    """No key, no bytes of what had one, no checkpoint."""
    assert keys(service.database) == {}
    assert files_with(service.settings.folder.parent, before) == []
    assert Work(service.settings).vault.objects.names().isdisjoint(before)
    with service.database.reading() as session:
        assert erasure.count_due(session) == 0
        assert session.scalar(sa.select(sa.func.count()).select_from(CheckpointRow)) == 0


@begins_with("auk", "dodo", has_evaluation_set=True)
def test_a_removal_destroys_networks_modules_and_images_and_ends_all_work(service: Service) -> None:
    first, second = service.deposits
    other = InferenceEngine(
        service.database, Work(service.settings).vault, Compute.for_inference("cpu"), service.settings.cache_bytes
    )
    withdrawal = service.custodian.withdraw([first], holder="h", reason="r")
    service.custodian.restore(second, reason="r")
    queued = service.queue(["emu"])
    other.prepare([first])
    other.views.read("birds")
    before = keys(service.database)
    assert len(before) >= 7  # upper, three revisions, two modules, deposit set, evaluation set

    remove(service)

    check_destroyed(service, before)
    with pytest.raises(ModelRemoved):
        other.views.read("birds")
    other.drop_shredded()
    other.close()
    states = {service.reader.deposit(deposit_id)["state"] for deposit_id in (first, second)}
    assert (states, service.reader.deposit(queued)["state"]) == ({"purged"}, "cancelled")
    assert [one["state"] for one in service.reader.withdrawals() if one["id"] == withdrawal["id"]] == ["revoked"]
    assert service.reader.models() == []
    for ask in (
        lambda: service.reader.model("birds"),
        lambda: service.reader.infer("birds", infer_request(1)),
        lambda: service.operator.upload_dataset("birds", service.archive(["auk"])),
    ):
        with pytest.raises(LirfError, match="administrator removed model 'birds' at") as gone:
            ask()
        assert (gone.value.status, gone.value.type) == (410, "urn:lirf:problem:model-removed")


@begins_with("auk")
def test_the_audit_keeps_the_story_of_a_removed_model_once(service: Service) -> None:
    deposit_id = service.deposits[0]
    remove(service)
    remove(service)  # a repetition changes nothing
    events = list(service.auditor.audit_events(model="birds"))
    [removed] = [event for event in events if event["action"] == "model.removed"]
    assert (removed["reason"], removed["details"]["deposits"]) == (REASON, [deposit_id])
    assert [event["subject"] for event in events if event["action"] == "deposit.purged"] == [deposit_id]
    assert {"model.registered", "deposit.finished"} <= {event["action"] for event in events}
    assert service.auditor.verify_audit()["is_intact"]
    with pytest.raises(LirfError, match="a removed model keeps its name"):
        service.describe("birds")


@begins_with("auk")
def test_a_removal_needs_the_name_a_reason_and_an_administrator(service: Service) -> None:
    assert refused(service) == (422, "name-not-confirmed")
    assert refused(service, confirm="Birds", reason=REASON) == (422, "name-not-confirmed")
    assert refused(service, confirm="birds") == (422, "name-not-confirmed")
    for client in (service.operator, service.custodian, service.auditor, service.reader):
        with pytest.raises(LirfError, match="Missing role"):
            client.remove_model("birds", confirm="birds", reason=REASON)
    assert service.reader.model("birds")["revision"] == 1


@begins_with("auk")
def test_a_second_person_approves_the_removal_and_other_requests_end(service: Service) -> None:
    before = keys(service.database)
    service.administrator.change_policy("birds", needs_second_person=True, reason="r")
    with pytest.raises(AwaitingApproval):
        service.custodian.withdraw(service.deposits, holder="h", reason="r")
    with Client(service.url, service.key_of("second", Role.ADMINISTRATOR)) as second:
        with pytest.raises(AwaitingApproval) as waiting:
            service.administrator.remove_model("birds", confirm="birds", reason=REASON)
        approval_id = waiting.value.approval["id"]
        assert service.reader.model("birds")["revision"] == 1
        with pytest.raises(LirfError):
            service.administrator.approve(approval_id)
        assert second.approve(approval_id)["still_in"] == []
    check_destroyed(service, before)
    assert sorted(one["state"] for one in service.reader.approvals()) == ["approved", "refused"]


@begins_with("auk dodo", is_trained=True, has_evaluation_set=True, is_examined=True)
def test_certificates_of_a_removed_model_stay_valid_and_are_still_issued(service: Service) -> None:
    with without_training_attacks():
        [evidence] = service.reader.evidence_of(service.deposits[0])
        issued = service.auditor.certificate(evidence["id"], format="html")
        remove(service)
        for certificate in (issued, service.auditor.certificate(evidence["id"], format="html")):
            public = load_pem_public_key(service.reader.certificate_key().encode())
            assert isinstance(public, Ed25519PublicKey)
            assert verified(certificate, public).deposit == service.deposits[0]


@begins_with("auk")
def test_a_running_deposit_of_a_removed_model_publishes_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import deposit as worker_deposit

    deposit_id, train = service.queue(["dodo"]), worker_deposit._train

    def removed_meanwhile(*arguments: object) -> object:
        result = train(*arguments)  # type: ignore[arg-type]
        remove(service)
        return result

    monkeypatch.setattr(worker_deposit, "_train", removed_meanwhile)
    before = keys(service.database)
    service.work(deposit_id)
    assert service.reader.deposit(deposit_id)["state"] == "cancelled"
    check_destroyed(service, before)


@begins_with()
def test_images_that_arrive_during_the_removal_are_not_kept(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.vault.service import Vault

    put, before = Vault.put, keys(service.database)

    def removed_meanwhile(vault: Vault, *arguments: object) -> object:
        monkeypatch.setattr(Vault, "put", put)
        stored = put(vault, *arguments)  # type: ignore[arg-type]
        remove(service)
        return stored

    monkeypatch.setattr(Vault, "put", removed_meanwhile)
    with pytest.raises(LirfError, match="removed model"):
        service.operator.upload_dataset("birds", service.archive(["auk"]))
    check_destroyed(service, before)


@on_one_database
@begins_with("auk")
def test_the_command_asks_for_the_name(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIRF_API_KEY", service.key_of("remover", Role.ADMINISTRATOR))
    command = ["remove", "birds", "--reason", REASON, "--url", service.url]
    wrong = CliRunner().invoke(main, command, input="bird\n")
    assert (wrong.exit_code, service.reader.model("birds")["revision"]) == (1, 1)
    right = CliRunner().invoke(main, command, input="birds\n")
    assert right.exit_code == 0, right.output
    again = CliRunner().invoke(main, [*command, "--yes", "--json"])
    assert '"still_in": []' in again.output


def remove_birds(work: Work) -> None:
    with work.database.session() as session:
        removals.remove(
            session, work.database, work.vault, work.settings, LOCAL_ADMINISTRATOR, "birds", "birds", REASON
        )


@pytest.mark.attack
@pytest.mark.processes
@begins_with("auk")
def test_a_process_may_die_at_every_durable_step_of_a_removal(service: Service) -> None:
    """Before the first commit nothing is removed; after it, a repetition or the reconciler finishes."""
    before = keys(service.database)
    for step in count(1):
        taken = steps_until_death(service, remove_birds, step=step)
        assert taken is not None
        is_removed = service.reader.models() == []
        assert is_removed is (step > 1)
        assert keys(service.database) == ({} if is_removed else before)
        if taken < step - 1:  # it came to its end
            break
    finish(service.database, Work(service.settings).vault)
    check_destroyed(service, before)
    assert len(list(service.auditor.audit_events(action="model.removed"))) == 1
