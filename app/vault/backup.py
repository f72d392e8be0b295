"""A copy of what the service keeps, from which it can be brought back; without the master key, which is kept apart."""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from app.base.database import Database
from app.vault import service as vaults
from app.vault.objects import told_as_away
from app.vault.service import Vault

DATABASE = "lirf.sqlite3"


def take(database: Database, vault: Vault, folder: Path, on_object: Callable[[], None] = lambda: None) -> int:
    """Brings `folder` up to date: the database where it is SQLite, and the objects that it names; returns how many.

    The database comes first: whatever it names was in the vault before. Objects are never rewritten, so only new ones
    are copied; those that are no longer named leave the folder. The service may run meanwhile.
    """
    objects = folder / "vault"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    objects.mkdir(mode=0o700, exist_ok=True)
    while True:
        named = _names_in_copy(database, folder / DATABASE)
        there = {path.name: path for path in objects.glob("??/*")}
        copied = [_copy_object(vault, name, objects / name[:2] / name, on_object) for name in named - there.keys()]
        if all(copied):
            break  # otherwise a deposit was published, or purged, since the database was copied
    for name in there.keys() - named:
        there[name].unlink()
    return len(named)


def _names_in_copy(database: Database, place: Path) -> set[str]:
    """The objects that the copied database can open; where it is copied by others, those of the database now."""
    if database.url.get_backend_name() != "sqlite":
        with database.reading() as session:
            return vaults.live_names(session)
    _copy_database(database, place)
    copy = Database(f"sqlite:///{place}")
    with copy.reading() as session:
        named = vaults.live_names(session)
    copy.engine.dispose()
    return named


def _copy_database(database: Database, place: Path) -> None:
    """A consistent copy in one file, which takes the old one's place at once."""
    with tempfile.TemporaryDirectory(dir=place.parent) as beside:
        made = Path(beside) / place.name
        with closing(database.engine.raw_connection()) as connection:
            connection.cursor().execute("VACUUM INTO ?", (str(made),))
        made.chmod(0o600)
        _flush(made)
        made.replace(place)


def _copy_object(vault: Vault, name: str, place: Path, on_object: Callable[[], None]) -> bool:
    """Whether the object is still there."""
    place.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent.parent) as beside:
        made = Path(beside) / name
        try:
            with told_as_away(), vault.objects.open(name) as source, made.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        except FileNotFoundError:
            return False
        _flush(made)
        made.replace(place)
    on_object()
    return True


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
