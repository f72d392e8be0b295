"""Images of classes that stay: what a deposit does with them, and how long they live."""

import pytest
import sqlalchemy as sa

import worker.deposit
import worker.hardening
from app.datasets.tables import DatasetRow
from lirf_client import AwaitingApproval, LirfError
from lirf_core import config as configurations
from lirf_core.hardening import HardeningRun, Transfer
from lirf_core.lesson import Lesson
from lirf_core.network import SplitNetwork
from lirf_core.proxies import Pool
from tests.app.conftest import Service, begins_with
from tests.app.test_hardenings import has_hardening


def preserved_set(service: Service, classes: list[str], each: int = 10) -> str:
    archive = service.archive(classes, each, "preserved.zip", first=500)
    return service.operator.upload_dataset("birds", archive, purpose="preserved")["id"]


def is_shredded(service: Service, dataset_id: str) -> bool:
    with service.database.session() as session:
        return session.scalar(sa.select(DatasetRow.shredded_at).where(DatasetRow.id == dataset_id)) is not None


@begins_with("kiwi")
def test_a_deposit_uses_preserved_images_and_shreds_them(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    lessons: list[Lesson] = []
    of_core = worker.deposit.deposit
    monkeypatch.setattr(
        worker.deposit,
        "deposit",
        lambda before, lesson, *rest: lessons.append(lesson) or of_core(before, lesson, *rest),
    )
    dataset = preserved_set(service, ["emu", "heron"])
    deposit_id = service.queue(["auk"], preserved_set_id=dataset)
    with pytest.raises(LirfError, match="uses data set"):
        service.operator.discard_dataset("birds", dataset)
    service.work(deposit_id)
    [lesson] = lessons
    assert lesson.preserved_images is not None
    assert lesson.preserved_images.labels.bincount().tolist() == [0, 0, 10, 10]
    assert service.reader.deposit(deposit_id)["state"] == "deposited"
    assert is_shredded(service, dataset)
    [requested] = service.auditor.audit_events(subject=deposit_id, action="deposit.requested")
    assert requested["details"]["preserved_images"] == {"emu": 10, "heron": 10}


@begins_with()
def test_the_hardening_learns_from_preserved_images_too_and_shreds_them(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configurations, "MIN_HARDENING_STEPS", 4)
    monkeypatch.setattr(configurations, "MAX_HARDENING_STEPS", 4)
    transfers: list[Transfer] = []
    of_core = worker.hardening.harden

    def harden(target: SplitNetwork, fresh: SplitNetwork, transfer: Transfer, run: HardeningRun) -> SplitNetwork:
        transfers.append(transfer)
        return of_core(target, fresh, transfer, run)

    monkeypatch.setattr(worker.hardening, "harden", harden)
    monkeypatch.setattr(
        worker.hardening, "make_proxies", lambda original, images, *_: Pool(images[:0], images.new_empty(0))
    )
    has_hardening(service)
    dataset = preserved_set(service, ["emu", "heron"])
    service.deposit(["auk"], preserved_set_id=dataset)
    [hardening] = service.reader.hardenings("birds")
    assert not is_shredded(service, dataset)
    with pytest.raises(LirfError, match="uses data set"):
        service.operator.discard_dataset("birds", dataset)
    assert worker.hardening.harden_target(service.worker, hardening["id"])
    [transfer] = transfers
    assert len(transfer.images) == 4 + 20  # the deposit images, no proxies, and the preserved images
    assert is_shredded(service, dataset)


@begins_with()
def test_preserved_images_are_kept_by_choice_and_shredded_when_a_deposit_is_cancelled(service: Service) -> None:
    dataset = preserved_set(service, ["emu"])
    service.operator.cancel(service.queue(["auk"], preserved_set_id=dataset, keep_preserved_set=True))
    assert not is_shredded(service, dataset)
    service.operator.cancel(service.queue(["auk"], preserved_set_id=dataset))
    assert is_shredded(service, dataset)
    with pytest.raises(LirfError, match="was shredded"):
        service.queue(["auk"], preserved_set_id=dataset)


@begins_with("kiwi")
@pytest.mark.parametrize(
    ("shown", "unfit"), [(["auk", "emu"], "'auk', but"), (["heron", "kiwi"], "'kiwi', but")], ids=["its own", "older"]
)
def test_images_of_deposited_classes_are_refused_by_name(service: Service, shown: list[str], unfit: str) -> None:
    with pytest.raises(LirfError, match=unfit) as refused:
        service.queue(["auk"], preserved_set_id=preserved_set(service, shown, 1))
    assert (refused.value.status, refused.value.type) == (422, "urn:lirf:problem:preserved-set-unfit")


@begins_with()
def test_a_set_for_another_purpose_is_no_preserved_set(service: Service) -> None:
    dataset = service.operator.upload_dataset("birds", service.archive(["emu"]))["id"]
    with pytest.raises(LirfError, match="no preserved set"):
        service.queue(["auk"], preserved_set_id=dataset)


@begins_with()
def test_few_preserved_images_get_a_warning(service: Service) -> None:
    archive = service.archive(["emu"], 9)
    [warning] = service.operator.upload_dataset("birds", archive, purpose="preserved")["warnings"]
    assert "Few images of 'emu' (9)" in warning


@begins_with()
def test_preserved_images_of_a_refused_request_are_shredded(service: Service) -> None:
    service.administrator.change_policy("birds", reason="r", needs_second_person=True)
    dataset = preserved_set(service, ["emu"])
    with pytest.raises(AwaitingApproval) as awaiting:
        service.queue(["auk"], preserved_set_id=dataset)
    assert not is_shredded(service, dataset)
    service.administrator.refuse(awaiting.value.approval["id"], reason="not these")
    assert is_shredded(service, dataset)
