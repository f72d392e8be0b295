"""A service restored from a backup is the service as it was."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.base.settings import Settings
from app.deposits import service as deposits
from app.vault import backup, maintenance
from tests.app.conftest import HTTP, Service, begins_with, started
from tests.app.factories import infer_request
from worker.work import Work


def restored_from(folder: Path, service: Service, tmp_path: Path) -> Settings:
    """Restore as docs/operations.md says: the copy in a new state folder, and the master key from its own place."""
    state = tmp_path / "restored"
    shutil.copytree(folder, state)
    shutil.copy2(service.settings.master_key, state / "master.key")
    return Settings(state_folder=state, device="cpu", _env_file=None)  # type: ignore[call-arg]


@begins_with("auk")
def test_a_service_is_restored_from_a_backup(service: Service, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    deposit_id = service.deposits[0]
    key = service.key_of("app", "custodian")  # type: ignore[arg-type]
    service.custodian.withdraw([deposit_id], holder="h", reason="r")
    before = service.reader.infer("birds", infer_request())["outputs"]
    work, folder = Work(service.settings), tmp_path / "backup"
    dump_file = dump(service, tmp_path)
    request.addfinalizer(lambda: drop(service))
    assert backup.take(work.database, work.vault, folder) == 5  # trunk, rows, two lower parts, module
    service.deposit(["dodo"])  # after the backup

    settings = restored_from(folder, service, tmp_path)
    if dump_file:
        settings.database_url = load(service, dump_file)
    again = Work(settings)
    assert maintenance.check(again.database, again.vault) == []
    with started(settings) as (url, _):
        headers = {"Authorization": f"Bearer {key}"}
        answer = HTTP.post(f"{url}/v2/models/birds/infer", json=infer_request(), headers=headers).json()
        assert answer["outputs"] == before
        assert answer["parameters"]["revision"] == 1
    again.database.engine.dispose()


def dump(service: Service, tmp_path: Path) -> Path | None:
    url = service.database.url
    if url.get_backend_name() == "sqlite":
        return None
    file = tmp_path / "lirf.dump"
    subprocess.run(["pg_dump", "--format=custom", f"--file={file}", libpq(url)], check=True)
    return file


def load(service: Service, dump_file: Path) -> str:
    url = service.database.url.set(database=f"{service.database.url.database}_restored")
    with outside(service) as connection:
        connection.execute(sa.text(f"CREATE DATABASE {url.database}"))
    subprocess.run(["pg_restore", "--no-owner", f"--dbname={libpq(url)}", str(dump_file)], check=True)
    return url.render_as_string(hide_password=False)


def drop(service: Service) -> None:
    if service.database.url.get_backend_name() != "sqlite":
        with outside(service) as connection:
            connection.execute(
                sa.text(f"DROP DATABASE IF EXISTS {service.database.url.database}_restored WITH (FORCE)")
            )


def outside(service: Service) -> sa.Connection:
    return sa.create_engine(service.database.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect()


def libpq(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL is dumped with its own tool first
@begins_with("auk")
def test_a_deposit_published_during_a_backup_does_not_break_it(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deposit scrubs the older module, so that its object no longer exists when the backup tries to copy it."""
    work, folder, copy = Work(service.settings), tmp_path / "backup", backup._copy_database
    published: list[str] = []

    def copy_then_publish(*arguments: Any) -> None:
        copy(*arguments)
        if not published:
            published.append(service.deposit(["dodo"]))

    monkeypatch.setattr(backup, "_copy_database", copy_then_publish)
    backup.take(work.database, work.vault, folder)
    again = Work(restored_from(folder, service, tmp_path))
    assert maintenance.check(again.database, again.vault) == []
    with again.database.reading() as session:
        assert deposits.get(session, published[0]).state == "deposited"


@begins_with("auk")
def test_a_second_backup_copies_new_objects_and_deletes_shredded_ones(service: Service, tmp_path: Path) -> None:
    first = service.deposits[0]
    work, folder = Work(service.settings), tmp_path / "backup"
    backup.take(work.database, work.vault, folder)
    written = {path.name: path.stat().st_mtime_ns for path in (folder / "vault").glob("??/*")}
    service.deposit(["dodo"])
    service.administrator.purge(first, classes=["auk"], reason="asked for")
    copied: list[None] = []
    backup.take(work.database, work.vault, folder, lambda: copied.append(None))
    now = {path.name: path.stat().st_mtime_ns for path in (folder / "vault").glob("??/*")}
    assert now.keys() == work.vault.objects.names()
    unchanged = written.keys() & now.keys()
    assert len(copied) == len(now) - len(unchanged)
    assert {name: now[name] for name in unchanged} == {name: written[name] for name in unchanged}
    assert not list(folder.glob("**/tmp*"))


@begins_with()
def test_a_backup_does_not_contain_the_master_key(service: Service, tmp_path: Path) -> None:
    work, folder = Work(service.settings), tmp_path / "backup"
    backup.take(work.database, work.vault, folder)
    key = service.settings.master_key.read_bytes()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert all(key not in path.read_bytes() for path in files)
    assert not (folder / "master.key").exists()
    with pytest.raises(FileNotFoundError):
        (folder / "admin.key").read_text()
