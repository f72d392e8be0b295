"""If the vault's disk is full or fails, nothing is half done, and the work goes on when the disk works again."""

import errno
from typing import Any

import pytest

from app.vault import maintenance
from app.vault.objects import ObjectStore
from lirf_client import LirfError
from tests.app.conftest import Service, begins_with
from tests.app.factories import infer_request
from worker.work import Work

FAULTS = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")]
SHORT = OSError("only half is on the disk, and there was no error")


@begins_with("auk")
@pytest.mark.parametrize("fault", [*FAULTS, SHORT], ids=str)
def test_a_deposit_survives_a_failing_vault(service: Service, monkeypatch: pytest.MonkeyPatch, fault: OSError) -> None:
    """Fails at each object that a deposit with a scrubbing writes: module, target, checkpoint, scrubbed module."""
    service.settings.max_attempts = 100
    first, second = service.deposits[0], service.queue(["dodo"])
    before = service.reader.infer("birds", infer_request())["outputs"]
    store, stored = ObjectStore.store, []

    for failing in range(4):
        count = [0]

        def broken(self: ObjectStore, *arguments: Any, count: list[int] = count, failing: int = failing) -> None:
            count[0] += 1
            if count[0] > failing and fault is SHORT:
                arguments[0].truncate(arguments[0].tell() // 2)
            elif count[0] > failing:
                raise fault
            stored.append(arguments[1])
            store(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "store", broken)
            service.work(second)
        if service.reader.deposit(second)["state"] == "deposited":
            break
        assert service.reader.deposit(second)["state"] == "queued"
        assert service.reader.infer("birds", infer_request())["outputs"] == before
    else:
        service.work(second)
    assert len(stored) >= 3
    assert service.reader.model("birds")["revision"] == 2
    withdrawal = service.custodian.withdraw([first, second], holder="h", reason="r")
    assert service.reader.infer("birds", infer_request())["parameters"]["withdrawals"] == [withdrawal["id"]]
    work = Work(service.settings)
    assert not [finding for finding in maintenance.check(work.database, work.vault) if finding.is_loss]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.strerror)
@begins_with()
def test_an_upload_that_the_vault_cannot_store_leaves_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    names = Work(service.settings).vault.objects.names()

    def broken(*_: object) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "store", broken)
        with pytest.raises(LirfError) as refused:
            service.operator.upload_dataset("birds", service.archive(["auk"]))
    assert (refused.value.status, refused.value.type) == (503, "urn:lirf:problem:storage-away")
    assert fault.strerror in refused.value.detail
    assert Work(service.settings).vault.objects.names() == names
    assert service.operator.upload_dataset("birds", service.archive(["auk"]))["counts"] == {"auk": 4}
