"""Backups: a copy of database and objects, to restore the service from. The master key is not in it."""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from app.access.service import LOCAL_ADMINISTRATOR
from app.audit import service as audit
from app.base.database import Database
from app.vault import service as vaults
from app.vault.objects import as_store_errors
from app.vault.service import Vault

DATABASE = "lirf.sqlite3"


def take(database: Database, vault: Vault, folder: Path, on_object: Callable[[], None] = lambda: None) -> int:
    """Bring the backup in `folder` up to date: the objects, and the database if it is SQLite. The service may run.

    The database is copied first, so that every object it names exists already. Objects are never rewritten: only new
    ones are copied, and those that the database no longer names are deleted from the folder. Returns their number.
    """
    audit.record_read(database, LOCAL_ADMINISTRATOR.name, "vault.backed_up", details={"folder": str(folder)})
    objects = folder / "vault"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    objects.mkdir(mode=0o700, exist_ok=True)
    while True:
        names = _names_in_copy(database, folder / DATABASE)
        files = {path.name: path for path in objects.glob("??/*")}
        copied = [_copy_object(vault, name, objects / name[:2] / name, on_object) for name in names - files.keys()]
        if all(copied):
            break  # otherwise a deposit was published or purged after the database was copied
    for name in files.keys() - names:
        files[name].unlink()
    return len(names)


def _names_in_copy(database: Database, file: Path) -> set[str]:
    """The objects that the copied database can open.

    PostgreSQL is backed up with its own tools: then the objects that the live database can open.
    """
    if database.url.get_backend_name() != "sqlite":
        with database.reading() as session:
            return vaults.live_names(session)
    _copy_database(database, file)
    copy = Database(f"sqlite:///{file}")
    with copy.reading() as session:
        names = vaults.live_names(session)
    copy.engine.dispose()
    return names


def _copy_database(database: Database, file: Path) -> None:
    """Replace the file, atomically, by a consistent copy of the database."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        copy = Path(folder) / file.name
        with closing(database.engine.raw_connection()) as connection:
            connection.cursor().execute("VACUUM INTO ?", (str(copy),))
        copy.chmod(0o600)
        _flush(copy)
        copy.replace(file)


def _copy_object(vault: Vault, name: str, file: Path, on_object: Callable[[], None]) -> bool:
    """Copy the object into the file. Returns False if the object no longer exists."""
    file.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent.parent) as folder:
        copy = Path(folder) / name
        try:
            with as_store_errors(), vault.objects.open(name) as source, copy.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        except FileNotFoundError:
            return False
        _flush(copy)
        copy.replace(file)
    on_object()
    return True


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
