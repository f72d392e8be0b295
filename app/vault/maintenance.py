"""Maintenance of a whole vault: check it, delete garbage, rotate the master key, drop old master keys."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, BinaryIO, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.service import LOCAL_ADMINISTRATOR
from app.audit import service as audit
from app.base.database import Database, changes, now
from app.base.paging import PageRequest
from app.base.settings import Settings
from app.vault.keys import FileMasterKeys
from app.vault.objects import StoreUnavailable
from app.vault.service import Binding, Vault, VaultDamaged, stored_object
from app.vault.tables import VaultObjectRow

MIN_GRACE = timedelta(hours=24)  # an object is written before its row
BATCH = 500
KEY_ROTATED = "vault.key_rotated"


class OldKeysNeeded(RuntimeError):
    """An old master key may still be the only one that opens something."""


@dataclass(frozen=True)
class Finding:
    """A fault of an object. `is_loss`: knowledge is lost; otherwise the object is only garbage."""

    object_name: str
    what: str
    is_loss: bool


def check(database: Database, vault: Vault, on_object: Callable[[], None] = lambda: None) -> list[Finding]:
    """Read every object to its end, and look for objects that no row names. Changes nothing.

    Rows are read before names. An object that is written meanwhile looks unnamed, so `_unnamed` reads the rows again.
    """
    findings = []
    with database.reading() as session:
        rows = session.execute(sa.select(VaultObjectRow.id, VaultObjectRow.name, VaultObjectRow.wrapped_key)).all()
    names = vault.objects.names()
    for row in rows:
        if row.wrapped_key is None:
            if row.name in names:
                findings.append(
                    Finding(row.name, "was shredded, but its bytes still exist; `lirf vault gc` deletes them", False)
                )
        elif damage := _damage(database, vault, row.id):
            findings.append(Finding(row.name, damage, True))
        on_object()
    recorded = {row.name for row in rows}
    findings += [
        Finding(name, "no row names it; `lirf vault gc` deletes it a day after it was written", False)
        for name in sorted(_unnamed(database, names - recorded))
    ]
    return findings


def _damage(database: Database, vault: Vault, object_id: str) -> str | None:
    """What is wrong with the object; None if it opens, or was shredded meanwhile."""
    with database.reading() as session:
        if not _is_live(session, object_id):
            return None
        sealed = stored_object(session, object_id)
    try:
        vault.copy_to(sealed, cast(BinaryIO, _NullSink()))
    except VaultDamaged as damage:
        with database.reading() as session:
            return damage.detail if _is_live(session, object_id) else None
    except StoreUnavailable:
        raise
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None


def _is_live(session: Session, object_id: str) -> bool:
    row = session.get(VaultObjectRow, object_id)
    return row is not None and row.wrapped_key is not None


def _unnamed(database: Database, candidates: set[str]) -> set[str]:
    """The candidates that no row can open."""
    unnamed = set(candidates)
    with database.reading() as session:
        for batch in _batches(sorted(candidates)):
            live = sa.select(VaultObjectRow.name).where(
                VaultObjectRow.name.in_(batch), VaultObjectRow.wrapped_key.is_not(None)
            )
            unnamed -= set(session.scalars(live))
    return unnamed


def gc(database: Database, vault: Vault, grace: timedelta) -> list[str]:
    """Delete objects that no row can open: shredded ones at once, others when they are older than `grace`.

    grace: longer than the time between a deposit's writing of an object and of its row (`grace_for`).
    Returns the names of the deleted objects.
    """
    names = vault.objects.names()
    with database.reading() as session:
        shredded = set(session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_(None))))
    old = {name for name in names - shredded if vault.objects.written_at(name) < now() - grace}
    garbage = sorted(_unnamed(database, old | (names & shredded)))
    vault.remove(garbage)
    if garbage:
        with database.session() as session, session.begin():
            audit.record(session, LOCAL_ADMINISTRATOR.name, "vault.cleared", details={"objects": garbage[:1000]})
    return garbage


def grace_for(settings: Settings) -> timedelta:
    """The longest time after which an object may still get its row."""
    return max(MIN_GRACE, timedelta(seconds=settings.time_limit_seconds) + timedelta(hours=1))


def rotate_key(database: Database, keys: FileMasterKeys, on_object: Callable[[], None] = lambda: None) -> int:
    """Add a new master key and wrap every data key with it. Objects stay as they are. Returns the number of keys.

    Running processes pick up the new keyset by themselves. Old keys stay in it: backups of the database need them, and
    so do objects whose rows are not written yet. If this is interrupted, run it again.
    """
    keys.add_primary()
    total = _rewrap_all(database, keys, on_object)
    with database.session() as session, session.begin():
        details = {"version": keys.version, "objects": total}
        audit.record(session, LOCAL_ADMINISTRATOR.name, KEY_ROTATED, details=details)
    return total


def drop_old_keys(database: Database, keys: FileMasterKeys, grace: timedelta) -> list[int]:
    """Destroy all master keys except the newest. Backups from before its rotation can then open nothing.

    grace: how long after the rotation a row with a data key under an old master key may still be written (`grace_for`).
    Returns the destroyed versions. Raises `OldKeysNeeded`.
    """
    old = keys.old_versions()
    if not old:
        return []
    with database.reading() as session:
        rotation = next(iter(audit.list_events(session, PageRequest(limit=1), action=KEY_ROTATED)[0]), None)
    if rotation is None or rotation.details["version"] != keys.version:
        raise OldKeysNeeded(
            "The last rotation did not finish. Run `lirf vault rotate-key`, and this command a day later."
        )
    if rotation.at > now() - grace:
        raise OldKeysNeeded(
            f"The key was rotated at {rotation.at:%Y-%m-%d %H:%M} UTC, and deposits that began before that may still "
            f"need an old key. Try again after {rotation.at + grace:%Y-%m-%d %H:%M} UTC."
        )
    _rewrap_all(database, keys)
    with database.session() as session, session.begin():  # first, so that nothing happens without its event
        details = {"version": keys.version, "dropped": old}
        audit.record(session, LOCAL_ADMINISTRATOR.name, "vault.keys_dropped", details=details)
    keys.drop(old)
    return old


def _rewrap_all(database: Database, keys: FileMasterKeys, on_object: Callable[[], None] = lambda: None) -> int:
    total = 0
    while rows := _old_rows(database, keys):
        for row in rows:
            _rewrap(database, keys, row)
            on_object()
        total += len(rows)
    return total


def _old_rows(database: Database, keys: FileMasterKeys) -> Sequence[VaultObjectRow]:
    """Up to `BATCH` objects whose data key an older master key wraps."""
    is_old = VaultObjectRow.wrapped_key.is_not(None), VaultObjectRow.master_key_version != keys.version
    with database.reading() as session:
        return session.scalars(sa.select(VaultObjectRow).where(*is_old).order_by(VaultObjectRow.id).limit(BATCH)).all()


def _rewrap(database: Database, keys: FileMasterKeys, row: VaultObjectRow) -> None:
    """In a transaction of its own: one that held several rows could deadlock with a deposit that shreds them."""
    assert row.wrapped_key is not None
    associated = Binding(row.kind, row.model_id, row.subject_id).associated()  # type: ignore[arg-type]
    wrapped = keys.wrap(keys.unwrap(row.wrapped_key, associated), associated)
    is_unchanged = VaultObjectRow.wrapped_key == row.wrapped_key  # it may have been shredded meanwhile
    guarded = sa.update(VaultObjectRow).where(VaultObjectRow.id == row.id, is_unchanged)
    with database.session() as session, session.begin():
        changes(session, guarded.values(wrapped_key=wrapped.data_key, master_key_version=wrapped.version))


def _batches(names: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(names), BATCH):
        yield names[begin : begin + BATCH]


class _NullSink(io.RawIOBase):
    """Discards what is written to it."""

    def writable(self) -> bool:
        return True

    def write(self, chunk: Any) -> int:
        return len(chunk)
