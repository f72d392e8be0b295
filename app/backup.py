"""A copy of what the service keeps, from which it can be brought back; without the master key, which is kept apart."""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from app.database import Database
from app.vault import service as vaults
from app.vault.service import Vault

DATABASE = "lirf.sqlite3"


def take(database: Database, vault: Vault, folder: Path, on_object: Callable[[], None] = lambda: None) -> int:
    """Brings `folder` up to date: the database where it is SQLite, and the objects that it names; returns how many.

    The database comes first: whatever it names was in the vault before. Objects are never rewritten, so only new ones
    are copied; those that are no longer named leave the folder. The service may run meanwhile. What is purged during
    the copy may be named and missing; `lirf vault check` then says so of the restored service.
    """
    objects = folder / "vault"
    objects.mkdir(mode=0o700, parents=True, exist_ok=True)
    if database.url.get_backend_name() == "sqlite":
        _copy_database(database, folder / DATABASE)
    with database.reading() as session:
        named = vaults.live_names(session)
    there = {path.name: path for path in objects.glob("??/*")}
    for name in sorted(named - there.keys()):
        _copy_object(vault, name, objects / name[:2] / name)
        on_object()
    for name in there.keys() - named:
        there[name].unlink()
    return len(named)


def _copy_database(database: Database, place: Path) -> None:
    """A consistent copy in one file, which takes the old one's place at once."""
    with tempfile.TemporaryDirectory(dir=place.parent) as beside:
        made = Path(beside) / place.name
        with closing(database.engine.raw_connection()) as connection:
            connection.cursor().execute("VACUUM INTO ?", (str(made),))
        _flush(made)
        made.replace(place)


def _copy_object(vault: Vault, name: str, place: Path) -> None:
    place.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent.parent) as beside:
        made = Path(beside) / name
        try:
            with vault.objects.open(name) as source, made.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        except FileNotFoundError:  # shredded since
            return
        _flush(made)
        made.replace(place)


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
