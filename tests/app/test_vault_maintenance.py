"""Checking, clearing and rewrapping a vault while the service runs."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
import tink

from app.vault import maintenance
from app.vault.keys import FileMasterKeys, WrappedKey
from app.vault.service import Binding, open_vault, record
from app.vault.tables import VaultObjectRow
from tests.app.conftest import Service, begins_with
from tests.app.factories import infer_request


def findings(service: Service) -> list[tuple[str, bool]]:
    results = maintenance.check(service.database, open_vault(service.settings))
    return [(finding.what.split(";")[0], finding.is_loss) for finding in results]


def live(service: Service) -> list[VaultObjectRow]:
    with service.database.session() as session:
        return list(session.scalars(sa.select(VaultObjectRow).where(VaultObjectRow.wrapped_key.is_not(None))))


@begins_with("auk")
def test_an_undamaged_vault_has_no_finding_and_a_damaged_one_names_the_loss(service: Service) -> None:
    assert findings(service) == []
    vault, name = open_vault(service.settings), live(service)[-1].name
    vault.objects.remove(name)
    [(what, is_loss)] = findings(service)
    assert is_loss
    assert "cannot be opened" in what


@begins_with()
def test_only_objects_that_no_row_can_open_are_deleted_and_only_after_a_day(service: Service) -> None:
    vault = open_vault(service.settings)
    before = vault.objects.names()
    unnamed = vault.put(Binding("module", "m", "d"), [b"interrupted"]).name
    assert findings(service) == [("no row names it", False)]
    assert maintenance.gc(service.database, vault, maintenance.grace_for(service.settings)) == []
    assert maintenance.gc(service.database, vault, timedelta(0)) == [unnamed]
    assert vault.objects.names() == before
    assert next(service.auditor.audit_events(action="vault.cleared"))["details"] == {"objects": [unnamed]}


@begins_with("auk")
def test_a_rotation_needs_no_pause_and_leaves_the_objects_as_they_are(service: Service) -> None:
    deposit_id = service.deposits[0]
    before = {row.name: (row.wrapped_key, row.master_key_version) for row in live(service)}
    stop, failures = threading.Event(), []

    def send_requests() -> None:
        while not stop.is_set():
            try:
                service.custodian.withdraw([deposit_id], holder="h", reason="r", expires_in_seconds=60)
                service.operator.upload_dataset("birds", service.archive(["emu"], name="rotating.zip"))
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=send_requests)
    thread.start()
    keys = FileMasterKeys(service.settings.master_key)
    for _ in range(3):
        old = keys.version
        assert maintenance.rotate_key(service.database, keys) >= len(before)
        assert keys.version != old
    stop.set()
    thread.join()
    assert failures == []
    after = {row.name: (row.wrapped_key, row.master_key_version) for row in live(service)}
    assert before.keys() <= after.keys()
    assert all(after[name][0] != before[name][0] for name in before)
    assert findings(service) == []
    assert service.settings.master_key.stat().st_mode & 0o777 == 0o600


@begins_with("auk")
def test_after_old_master_keys_are_dropped_earlier_backups_open_nothing(service: Service) -> None:
    deposit_id = service.deposits[0]
    keys, backup = FileMasterKeys(service.settings.master_key), live(service)
    assert maintenance.drop_old_keys(service.database, keys, timedelta(0)) == []
    old = keys.version
    maintenance.rotate_key(service.database, keys)
    with pytest.raises(maintenance.OldKeysNeeded, match=r"Try again after 2\d\d\d-"):
        maintenance.drop_old_keys(service.database, keys, maintenance.grace_for(service.settings))
    assert keys.old_versions() == [old]

    assert maintenance.drop_old_keys(service.database, keys, timedelta(0)) == [old]
    assert keys.old_versions() == []
    assert findings(service) == []
    service.custodian.withdraw([deposit_id], holder="h", reason="r")
    service.reader.infer("birds", infer_request(1))
    for row in backup:
        associated = Binding(row.kind, row.model_id, row.subject_id).associated()  # type: ignore[arg-type]
        assert row.wrapped_key is not None
        with pytest.raises(tink.TinkError):
            keys.unwrap(row.wrapped_key, associated)
    details = next(service.auditor.audit_events(action="vault.keys_dropped"))["details"]
    assert details == {"version": keys.version, "dropped": [old]}


@begins_with()
def test_old_master_keys_stay_until_a_rotation_is_finished(service: Service) -> None:
    keys = FileMasterKeys(service.settings.master_key)
    maintenance.rotate_key(service.database, keys)
    keys.add_primary()  # as if the rotation was killed here
    with pytest.raises(maintenance.OldKeysNeeded, match="did not finish"):
        maintenance.drop_old_keys(service.database, keys, timedelta(0))
    assert len(keys.old_versions()) == 2


@begins_with()
def test_an_object_written_during_a_rotation_is_rewrapped_before_old_keys_are_dropped(service: Service) -> None:
    keys, vault = FileMasterKeys(service.settings.master_key), open_vault(service.settings)

    def chunks() -> Iterator[bytes]:
        yield b"begun under the old key, "
        maintenance.rotate_key(service.database, keys)
        yield b"ended under the new one"

    sealed = vault.put(Binding("module", "m", "d"), chunks())
    assert sealed.master_key_version == keys.old_versions()[0]
    with service.database.session() as session, session.begin():
        record(session, sealed)
    maintenance.drop_old_keys(service.database, keys, timedelta(0))
    assert findings(service) == []


def test_concurrent_rotations_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    first = FileMasterKeys(path).wrap(b"data key", b"")

    def rotated(_: int) -> WrappedKey:
        keys = FileMasterKeys(path)
        keys.add_primary()
        return keys.wrap(b"data key", b"")

    with ThreadPoolExecutor(8) as pool:
        wrapped = [first, *pool.map(rotated, range(40))]
    keys = FileMasterKeys(path)
    assert len(keys.old_versions()) == 40
    assert {keys.unwrap(key.data_key, b"") for key in wrapped} == {b"data key"}
