"""What an administrator does to a whole vault: check it, clear what no row names, and put a new master key to work."""

import io
from collections.abc import Callable, Iterator
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
from app.vault.objects import StoreAway
from app.vault.service import Binding, Vault, VaultDamaged, stored
from app.vault.tables import VaultObjectRow

GRACE = timedelta(hours=24)  # at least: an object is written before its row
BATCH = 500
KEY_ROTATED = "vault.key_rotated"


class OldKeysNeeded(RuntimeError):
    """Something may still be opened by an old master key only."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with an object. `is_loss`: knowledge is missing; otherwise something is there that need not be."""

    object_name: str
    what: str
    is_loss: bool


def check(database: Database, vault: Vault, on_object: Callable[[], None] = lambda: None) -> list[Finding]:
    """Opens every object to its end, and looks for objects that no row names. Changes nothing.

    Rows are read before names: what is written meanwhile has a row that is not asked for.
    """
    findings = []
    with database.reading() as session:
        recorded = session.execute(sa.select(VaultObjectRow.id, VaultObjectRow.name, VaultObjectRow.wrapped_key)).all()
    names = vault.objects.names()
    for row in recorded:
        if row.wrapped_key is None:
            if row.name in names:
                findings.append(
                    Finding(row.name, "was shredded, but its bytes are still there; gc removes them", False)
                )
        elif damage := _damage(database, vault, row.id):
            findings.append(Finding(row.name, damage, True))
        on_object()
    known = {row.name for row in recorded}
    findings += [
        Finding(name, "no row names it; gc removes it a day after it was written", False)
        for name in sorted(_unnamed(database, vault, names - known))
    ]
    return findings


def _damage(database: Database, vault: Vault, object_id: str) -> str | None:
    with database.reading() as session:
        if not _is_live(session, object_id):
            return None
        sealed = stored(session, object_id)
    try:
        vault.copy_to(sealed, cast(BinaryIO, _Nowhere()))
    except VaultDamaged as damage:
        with database.reading() as session:
            return damage.detail if _is_live(session, object_id) else None  # else it went meanwhile
    except StoreAway:
        raise
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None


def _is_live(session: Session, object_id: str) -> bool:
    row = session.get(VaultObjectRow, object_id)
    return row is not None and row.wrapped_key is not None


def _unnamed(database: Database, vault: Vault, candidates: set[str]) -> set[str]:
    """Those that still have no row that can open them."""
    found = set(candidates)
    with database.reading() as session:
        for part in _batches(sorted(candidates)):
            live = sa.select(VaultObjectRow.name).where(
                VaultObjectRow.name.in_(part), VaultObjectRow.wrapped_key.is_not(None)
            )
            found -= set(session.scalars(live))
    return found


def gc(database: Database, vault: Vault, grace: timedelta) -> list[str]:
    """Removes bytes that no row can open: shredded ones at once, others `grace` after they were written.

    grace: longer than a deposit takes from an object to its row (`grace_for`).
    """
    names = vault.objects.names()
    with database.reading() as session:
        shredded = set(session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_(None))))
    old = {name for name in names - shredded if vault.objects.written_at(name) < now() - grace}
    garbage = sorted(_unnamed(database, vault, old | (names & shredded)))
    vault.remove(garbage)
    if garbage:
        with database.session() as session, session.begin():
            audit.record(session, LOCAL_ADMINISTRATOR.name, "vault.cleared", details={"objects": garbage[:1000]})
    return garbage


def grace_for(settings: Settings) -> timedelta:
    """How long after its writing an object may still get its row."""
    return max(GRACE, timedelta(seconds=settings.time_limit_seconds) + timedelta(hours=1))


def rotate_key(database: Database, keys: FileMasterKeys, on_object: Callable[[], None] = lambda: None) -> int:
    """Makes a new master key and wraps every data key anew; objects stay as they are. Returns how many were wrapped.

    Running processes see the new keyset by themselves. Old keys stay in it: a backup of the database needs them, and so
    does an object whose row is not written yet. Stopped half-way, it can be run again.
    """
    keys.add_primary()
    total = _wrap_all(database, keys, on_object)
    with database.session() as session, session.begin():
        details = {"version": keys.version, "objects": total}
        audit.record(session, LOCAL_ADMINISTRATOR.name, KEY_ROTATED, details=details)
    return total


def drop_old_keys(database: Database, keys: FileMasterKeys, grace: timedelta) -> list[int]:
    """Destroys all master keys but the newest, and with them what backups from before its rotation could open.

    grace: how long after the rotation something may still get its row that an old key had wrapped (`grace_for`).
    Returns the versions that are gone. Raises `OldKeysNeeded`.
    """
    old = keys.old_versions()
    if not old:
        return []
    with database.reading() as session:
        rotation = next(iter(audit.list_events(session, PageRequest(limit=1), action=KEY_ROTATED)[0]), None)
    if rotation is None or rotation.details["version"] != keys.version:
        raise OldKeysNeeded("the last rotation was not finished; run `lirf vault rotate-key`, and this a day later.")
    if rotation.at > now() - grace:
        raise OldKeysNeeded(
            f"the key was rotated at {rotation.at:%Y-%m-%d %H:%M} UTC; deposits that began before may still need "
            f"an old one; try again after {rotation.at + grace:%Y-%m-%d %H:%M} UTC."
        )
    _wrap_all(database, keys)
    with database.session() as session, session.begin():  # first: what cannot be told is not done
        details = {"version": keys.version, "dropped": old}
        audit.record(session, LOCAL_ADMINISTRATOR.name, "vault.keys_dropped", details=details)
    keys.drop(old)
    return old


def _wrap_all(database: Database, keys: FileMasterKeys, on_object: Callable[[], None] = lambda: None) -> int:
    total = 0
    while batch := _wrap_batch(database, keys):
        total += batch
        for _ in range(batch):
            on_object()
    return total


def _wrap_batch(database: Database, keys: FileMasterKeys) -> int:
    with database.session() as session, session.begin():
        rows = session.scalars(
            sa.select(VaultObjectRow)
            .where(VaultObjectRow.wrapped_key.is_not(None), VaultObjectRow.master_key_version != keys.version)
            .order_by(VaultObjectRow.id)
            .limit(BATCH)
        ).all()
        for row in rows:
            _wrap_anew(session, keys, row)
        return len(rows)


def _wrap_anew(session: Session, keys: FileMasterKeys, row: VaultObjectRow) -> None:
    assert row.wrapped_key is not None
    associated = Binding(row.kind, row.model_id, row.subject_id).associated()  # type: ignore[arg-type]
    wrapped = keys.wrap(keys.unwrap(row.wrapped_key, associated), associated)
    is_same = VaultObjectRow.wrapped_key == row.wrapped_key  # not shredded since
    guarded = sa.update(VaultObjectRow).where(VaultObjectRow.id == row.id, is_same)
    changes(session, guarded.values(wrapped_key=wrapped.data_key, master_key_version=wrapped.version))


def _batches(names: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(names), BATCH):
        yield names[begin : begin + BATCH]


class _Nowhere(io.RawIOBase):
    """Takes a plaintext and keeps nothing of it."""

    def writable(self) -> bool:
        return True

    def write(self, chunk: Any) -> int:
        return len(chunk)
