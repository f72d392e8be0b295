"""After a purge that was answered as done, nothing holds the wrapped keys: what is in the way delays it or is named."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from app.access.service import Role
from app.audit import service as audit
from app.base.database import Database
from app.vault import backup, erasure
from app.vault.objects import ObjectStore
from app.vault.service import Vault
from app.vault.tables import VaultObjectRow
from lirf_client import AwaitingApproval, Client
from lirf_client.types import Purge
from tests.app.conftest import Service, begins_with, on_one_database
from tests.doses import dose
from worker.work import Work

REASON = "the licence holder asked for it"
CLASS = ["auk", "dodo", "emu"]


@contextmanager
def snapshot(database: Database) -> Iterator[None]:
    """Another connection that has begun to read, as a backup does."""
    with database.reading() as session:
        session.execute(sa.select(sa.func.count()).select_from(VaultObjectRow))
        yield


def keys(database: Database) -> dict[str, bytes]:
    """Live wrapped keys, by the names of their objects."""
    with database.reading() as session:
        rows = sa.select(VaultObjectRow.name, VaultObjectRow.wrapped_key).where(VaultObjectRow.wrapped_key.is_not(None))
        return {row.name: row.wrapped_key for row in session.execute(rows)}


def files_with(folder: Path, secrets: dict[str, bytes]) -> list[str]:
    """The files below the folder (database, log, objects, anything) that have one of the secrets, or are its object."""
    found = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # a file may end meanwhile
            content = path.read_bytes()
            found += [path.name for name, key in secrets.items() if key in content or path.name == name]
    return found


def server_folder(database: Database) -> Path | None:
    """PostgreSQL: the folder of this database's files, if its server runs here and they may be read."""
    if is_sqlite(database):
        return None
    with database.engine.connect() as connection:
        table = connection.scalar(sa.text("SELECT pg_relation_filepath('vault_objects')"))
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"-D" not in words:
                continue
            folder = Path(words[words.index(b"-D") + 1].decode())
            port = (folder / "postmaster.pid").read_text().splitlines()[3]
            if port == str(database.url.port or 5432) and (folder / table).exists():
                return (folder / table).parent
    return None


def node(database: Database) -> object:
    """PostgreSQL: the file of the table. A table that was rewritten has a new one, without the bytes of dead rows."""
    with database.engine.connect() as connection:
        return connection.scalar(sa.text("SELECT pg_relation_filenode('vault_objects')"))


def purged(service: Service, deposit_id: str, name: str) -> Purge:
    return service.administrator.purge(deposit_id, classes=[name], reason=REASON)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finish(database: Database, vault: Vault) -> None:
    """Rounds of the reconciler. On PostgreSQL, transactions of the tests beside this one delay the erasure, too."""

    def is_done() -> bool:
        erasure.finish(database, vault)
        with database.reading() as session:
            return erasure.count_due(session) == 0

    until(is_done)


def is_sqlite(database: Database) -> bool:
    return database.engine.dialect.name == "sqlite"


def check_gone(service: Service, before: dict[str, bytes]) -> None:
    shredded = {name: key for name, key in before.items() if name not in keys(service.database)}
    assert shredded
    assert files_with(service.settings.folder.parent, shredded) == []
    if (server := server_folder(service.database)) is not None:
        assert files_with(server, shredded) == []
    with service.database.reading() as session:
        assert erasure.count_due(session) == 0


@pytest.mark.attack
@pytest.mark.timeout(3600)
@begins_with("auk", "dodo", "emu")
def test_a_purge_beside_a_reader_is_done_delayed_or_says_what_is_left(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reader ends while the purge waits; one stays; one is an export whose client does not read on."""
    database, vault = service.database, Work(service.settings).vault
    with database.session() as session, session.begin():
        for number in range(3000):  # more than a socket takes, so that the export is in the middle
            audit.record(session, "somebody", "thing.done", reason="x" * 1000, details={"n": number})
    targets = [("birds", name, deposit_id) for name, deposit_id in zip(CLASS, service.deposits, strict=True)]
    for number in range(3, dose(3, 30)):
        if number % 3 == 0:
            model = f"birds-{number}"
            service.register(model)
        name = CLASS[number % 3]
        targets.append((model, name, service.deposit([name], model)))

    for number, (_, name, deposit_id) in enumerate(reversed(targets)):
        before, old_file = keys(database), None if is_sqlite(database) else node(database)
        beside = (beside_one_that_ends, beside_one_that_stays, beside_a_slow_export)[number % 3]
        monkeypatch.setattr(erasure, "WAIT_SECONDS", 0.5 if beside is beside_one_that_stays else 60.0)
        beside(service, vault, deposit_id, name)
        check_gone(service, before)
        assert is_sqlite(database) or node(database) != old_file


def beside_one_that_ends(service: Service, vault: Vault, deposit_id: str, name: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        with snapshot(service.database):
            answer = pool.submit(purged, service, deposit_id, name)
            until(lambda: service.reader.deposit(deposit_id)["state"] == "purged")
            time.sleep(0.5)
            assert not answer.done()
        assert answer.result()["still_in"] == []


def beside_one_that_stays(service: Service, vault: Vault, deposit_id: str, name: str) -> None:
    with snapshot(service.database):
        answer = purged(service, deposit_id, name)
        assert len(answer["still_in"]) == 1
        assert "a snapshot from before" in answer["still_in"][0]
        erasure.finish(service.database, vault)
        with service.database.reading() as session:
            assert erasure.count_due(session)
    finish(service.database, vault)
    assert [event["action"] for event in service.auditor.audit_events(limit=1)] == ["vault.erased"]


def beside_a_slow_export(service: Service, vault: Vault, deposit_id: str, name: str) -> None:
    headers = {"Authorization": f"Bearer {service.key_of('reading', Role.AUDITOR)}"}
    with httpx.stream("GET", f"{service.url}/v1/audit/events/export", headers=headers, timeout=60) as export:
        next(export.iter_raw())
        assert purged(service, deposit_id, name)["still_in"] == []


@begins_with("auk")
def test_a_crash_after_the_commit_leaves_an_erasure_that_the_reconciler_finishes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, before = service.database, keys(service.database)
    with monkeypatch.context() as patch:
        patch.setattr(erasure, "_erase", lambda *_: None)  # as if the process had ended
        assert purged(service, service.deposits[0], "auk")["still_in"] == ["The erasure is not finished."]
    finish(database, Work(service.settings).vault)
    check_gone(service, before)


@begins_with("auk")
def test_bytes_that_the_store_does_not_delete_are_named_and_deleted_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, before = service.database, keys(service.database)

    def fail(store: ObjectStore, name: str) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "remove", fail)
        [obstacle] = purged(service, service.deposits[0], "auk")["still_in"]
    assert "did not delete the bytes" in obstacle
    finish(database, Work(service.settings).vault)
    check_gone(service, before)


@begins_with("auk")
def test_an_approved_purge_says_what_is_left_too(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "WAIT_SECONDS", 0.2)
    with Client(service.url, service.key_of("second", Role.ADMINISTRATOR)) as second:
        service.administrator.change_policy("birds", needs_second_person=True, reason="r")
        with pytest.raises(AwaitingApproval) as waiting:
            purged(service, service.deposits[0], "auk")
        with snapshot(service.database):
            approved = second.approve(waiting.value.approval["id"])
            assert "a snapshot from before" in " ".join(approved["still_in"])
        metrics = httpx.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {service.key_of('m')}"}).text
        assert "lirf_due_erasures 2.0" in metrics


@begins_with("auk")
def test_a_slow_reader_of_a_page_holds_no_transaction(service: Service) -> None:
    """The session of a request ends before its answer is sent."""
    with service.database.session() as session, session.begin():
        for _ in range(500):
            audit.record(session, "somebody", "thing.done", reason="x" * 10_000)
    headers = {"Authorization": f"Bearer {service.key_of('a', Role.AUDITOR)}"}
    before = keys(service.database)
    page = f"{service.url}/v1/audit/events?limit=500"
    with httpx.stream("GET", page, headers=headers, timeout=60) as slow:
        next(slow.iter_raw())
        assert purged(service, service.deposits[0], "auk")["still_in"] == []
    check_gone(service, before)


@pytest.mark.parametrize("place", ["its database", "another database"])
@begins_with("auk")
def test_a_purge_waits_for_a_transaction_without_a_snapshot(service: Service, place: str) -> None:
    """PostgreSQL keeps the dead rows for a transaction that has a number, even for one of another database."""
    if is_sqlite(service.database):
        pytest.skip("SQLite has one writer at a time")
    before = keys(service.database)
    url = service.database.url if place == "its database" else sa.make_url(os.environ["TEST_DATABASE_URL"])
    engine = sa.create_engine(url)
    with ThreadPoolExecutor(1) as pool:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_current_xact_id()"))
            answer = pool.submit(purged, service, service.deposits[0], "auk")
            until(lambda: service.reader.deposit(service.deposits[0])["state"] == "purged")
            time.sleep(0.5)
            assert not answer.done()
        assert answer.result()["still_in"] == []
    engine.dispose()
    check_gone(service, before)


@begins_with("auk")
def test_a_purge_names_the_log_that_it_cannot_erase(service: Service) -> None:
    before = keys(service.database)
    answer = purged(service, service.deposits[0], "auk")
    check_gone(service, before)
    if is_sqlite(service.database):
        assert answer["also_in"] == []
        return
    [log] = answer["also_in"]
    assert "write-ahead log up to " in log
    assert "drop-old-keys" in log
    if (server := server_folder(service.database)) is not None:  # the sentence is true
        shredded = [key for name, key in before.items() if name not in keys(service.database)]
        segments = sorted((server.parents[1] / "pg_wal").glob("0*"), key=lambda file: file.stat().st_mtime)
        newest = (file.read_bytes() for file in reversed(segments[-16:]))
        assert any(key in log for log in newest for key in shredded)


@on_one_database
def test_others_write_while_an_erasure_waits_for_a_reader(service: Service) -> None:
    database = service.database

    def write() -> None:
        with database.session() as session, session.begin():
            audit.record(session, "somebody", "thing.done")

    with snapshot(database), ThreadPoolExecutor(1) as pool:
        write()
        obstacle = pool.submit(database.erase_freed_data, 3.0)
        while not obstacle.done():
            write()
        assert "a snapshot from before" in (obstacle.result() or "")


@on_one_database
@begins_with("auk")
def test_a_backup_has_no_shredded_key(service: Service, tmp_path: Path) -> None:
    before = keys(service.database)
    purged(service, service.deposits[0], "auk")
    backup.take(service.database, Work(service.settings).vault, tmp_path / "backup")
    check_gone(service, before)
