"""Checking, clearing and rewrapping a vault, beside a running service."""

import threading
from datetime import timedelta

import sqlalchemy as sa

from app.vault import maintenance
from app.vault.keys import FileMasterKeys
from app.vault.service import Binding, open_vault
from app.vault.tables import VaultObjectRow
from tests.app.conftest import Service


def findings(service: Service) -> list[tuple[str, bool]]:
    found = maintenance.check(service.database, open_vault(service.settings))
    return [(finding.what.split(";")[0], finding.is_loss) for finding in found]


def live(service: Service) -> list[VaultObjectRow]:
    with service.database.session() as session:
        return list(session.scalars(sa.select(VaultObjectRow).where(VaultObjectRow.wrapped_key.is_not(None))))


def test_a_whole_vault_has_no_finding_and_a_damaged_one_tells_what_is_lost(service: Service) -> None:
    service.register()
    service.deposit(["auk"])
    assert findings(service) == []
    vault, name = open_vault(service.settings), live(service)[-1].name
    vault.objects.remove(name)
    [(what, is_loss)] = findings(service)
    assert is_loss
    assert "does not open" in what


def test_only_what_no_row_can_open_is_cleared_and_only_after_a_day(service: Service) -> None:
    service.register()
    vault = open_vault(service.settings)
    kept = vault.objects.names()
    unnamed = vault.put(Binding("module", "m", "d"), [b"interrupted"]).name
    assert findings(service) == [("no row names it", False)]
    assert maintenance.gc(service.database, vault, maintenance.grace_for(service.settings)) == []
    assert maintenance.gc(service.database, vault, timedelta(0)) == [unnamed]
    assert vault.objects.names() == kept
    assert next(service.auditor.audit_events(action="vault.cleared"))["details"] == {"objects": [unnamed]}


def test_a_new_master_key_opens_everything_without_a_pause_and_objects_stay(service: Service) -> None:
    service.register()
    deposit_id = service.deposit(["auk"])
    before = {row.name: (row.wrapped_key, row.master_key_version) for row in live(service)}
    stop, failures = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            try:
                service.custodian.withdraw([deposit_id], holder="h", reason="r", expires_in_seconds=60)
                service.operator.upload_dataset("birds", service.archive(["emu"], name="rotating.zip"))
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=ask)
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
