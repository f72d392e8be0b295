"""Models that an earlier version stored: their deposited rows leave the upper part and go into the deposit modules.

Needs the master key, so it is no migration of the schema. Workers do it when they start; a deposit and a purge wait for
it. One transaction a model makes it true, so it can be interrupted at any time, and begins again.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.base.database import Database
from app.deposits import jobs
from app.deposits.jobs import OlderModule
from app.deposits.tables import DepositRow
from app.jobs.machine import WORKER
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.vault import erasure
from app.vault import service as vaults
from app.vault.service import Binding, StoredObject, Vault

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Before:
    """A model as an earlier version stored it."""

    network: StoredNetwork
    preserved: list[int]
    modules: list[OlderModule]
    classes: dict[str, list[int]]  # of each module, by its deposit

    @property
    def object_ids(self) -> set[str]:
        return {self.network.upper.id, *(module.stored.id for module in self.modules)}


@dataclass(frozen=True)
class _After:
    """Every object was read back from the vault."""

    trunk: StoredObject
    rows: StoredObject
    modules: list[OlderModule]


def separate_all(database: Database, vault: Vault) -> list[str]:
    """Separate the rows of every model that needs it. Returns the names of these models.

    A model that cannot be separated stays as it is, and answers as before; its next deposit says what is wrong.
    """
    with database.reading() as session:
        waiting = registry.with_whole_upper_part(session)
    separated = []
    for model_id, name in waiting.items():
        try:
            separate(database, vault, model_id)
        except Exception:
            log.exception("the rows of model %s could not be separated", name)
        else:
            separated.append(name)
    return separated


def separate(database: Database, vault: Vault, model_id: str) -> None:
    """Separate the rows of a model, if an earlier version stored it.

    The rows of deposits that were purged are destroyed. The network and the modules answer as before.
    Raises `VaultDamaged`, `NotTheSame`.
    """
    while True:
        with database.reading() as session:
            before = _read(session, model_id)
        if before is None:
            return
        try:
            with ExitStack() as on_error:
                after = _store(vault, model_id, before, on_error)
                with database.session() as session, session.begin():
                    garbage = _publish(session, model_id, before, after)
        except _Changed:
            continue
        erasure.erase(database, vault, garbage)
        return


class NotTheSame(RuntimeError):
    """What was stored anew is not what was there. Nothing was changed."""


class _Changed(Exception):
    """A deposit, a purge or another process changed the model meanwhile."""


def _read(session: Session, model_id: str) -> _Before | None:
    """In the caller's transaction. None if the rows are separated already."""
    if model_id not in registry.with_whole_upper_part(session):
        return None
    model = registry.by_id(session, model_id)
    held = registry.deposited(session, model_id)
    modules = jobs.stored_modules(session, model_id)
    return _Before(
        registry.stored_network(session, model),
        [index for index in range(len(model.class_names)) if index not in held],
        modules,
        jobs.class_indices(session, [module.deposit_id for module in modules]),
    )


def _store(vault: Vault, model_id: str, before: _Before, on_error: ExitStack) -> _After:
    """The parts in new objects, read back and compared with the old ones."""
    from lirf_core import artifacts
    from lirf_core import class_rows as rows  # imports torch, which the API only needs here
    from lirf_core.network import digest

    def put(binding: Binding, plaintext: bytes) -> StoredObject:
        stored = vault.put(binding, [plaintext])
        on_error.enter_context(vault.discarded_on_error(stored))
        return stored

    belonging, network = before.network.belonging, before.network.open(vault)
    trunk = put(Binding("trunk", model_id, model_id), artifacts.dump_trunk(network, belonging))
    own = rows.take(network, before.preserved)
    kept = put(Binding("rows", model_id, model_id), artifacts.dump_rows(own, belonging))
    read_back = artifacts.load_network(vault.read(trunk), vault.read(before.network.lower), belonging, vault.read(kept))
    modules = []
    for older in before.modules:
        module = artifacts.load_module(vault.read(older.stored), belonging)
        module = module.with_rows(rows.take(network, before.classes[older.deposit_id]))
        stored = put(Binding("module", model_id, older.deposit_id), artifacts.dump_module(module, belonging))
        modules.append(OlderModule(older.deposit_id, stored))
        again = artifacts.load_module(vault.read(stored), belonging)
        if again.rows is None or digest(again) != digest(module):
            raise NotTheSame(f"The module of deposit {older.deposit_id} does not read back as it was written.")
        rows.put_back(read_back, [again.rows])
    rows.remove(network, read_back.absent)  # those of purged deposits
    if digest(read_back.upper) != digest(network.upper):
        raise NotTheSame(f"The upper part of model {model_id} does not read back as it was written.")
    return _After(trunk, kept, modules)


def _publish(session: Session, model_id: str, before: _Before, after: _After) -> list[str]:
    """In the caller's transaction. Returns the vault objects to remove after it. Raises `_Changed`."""
    model = registry.lock(session, model_id)
    now_stored = _read(session, model_id)
    if now_stored is None or now_stored.object_ids != before.object_ids:
        raise _Changed
    garbage = registry.separate_upper_part(session, model, after.trunk, after.rows)
    for module in after.modules:
        row = session.get_one(DepositRow, module.deposit_id)
        assert row.module_object_id is not None
        garbage.append(vaults.shred(session, row.module_object_id))
        row.module_object_id = vaults.record(session, module.stored)
        row.module_bytes = module.stored.plaintext_bytes
    held = {*before.preserved, *(index for own in before.classes.values() for index in own)}
    audit.record(
        session,
        WORKER,
        "model.rows_separated",
        model=model.name,
        subject=model.id,
        details={
            "upper_object": after.trunk.name,
            "rows_object": after.rows.name,
            "module_objects": {module.deposit_id: module.stored.name for module in after.modules},
            "destroyed_rows": [name for index, name in enumerate(model.class_names) if index not in held],
        },
    )
    return garbage
