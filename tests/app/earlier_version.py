"""Turns a model into what versions before the rows of the last layer had objects of their own stored."""

import sqlalchemy as sa

from app.base.database import Database
from app.deposits import jobs
from app.deposits.tables import DepositRow
from app.registry import service as registry
from app.registry.tables import ModelRow
from app.vault import service as vaults
from app.vault.service import Binding, Vault
from lirf_core import artifacts
from lirf_core.recover import DepositModule
from tests.lirf_core.factories import dump_upper
from worker.deposited_rows import open_whole, rows_of


def store_as_earlier_version(database: Database, vault: Vault, name: str = "birds") -> None:
    """The whole upper part in one object, and modules without rows. No deposit may be purged yet."""
    with database.session() as session, session.begin():
        model = registry.get(session, name)
        stored = registry.stored_network(session, model)
        modules = jobs.stored_modules(session, model.id)
        belonging = stored.belonging
        network = open_whole(stored, rows_of([one.stored for one in modules], belonging, vault), vault)
        assert not network.absent
        upper = vault.put(Binding("upper", model.id, model.id), [dump_upper(network, belonging)])
        old_ids = [stored.upper.id, *([stored.rows.id] if stored.rows else [])]
        values = {"upper_object_id": vaults.record(session, upper), "rows_object_id": None}
        session.execute(sa.update(ModelRow).where(ModelRow.id == model.id).values(**values))
        for older in modules:
            module = artifacts.load_module(vault.read(older.scrubbed or older.stored), belonging)
            bare = DepositModule(
                module.lower, module.classes, module.upper_digest, module.joining, module.weight, module.grid
            )
            put = vault.put(Binding("module", model.id, older.deposit_id), [artifacts.dump_module(bare, belonging)])
            row = session.get_one(DepositRow, older.deposit_id)
            row.module_object_id, row.module_bytes = vaults.record(session, put), put.plaintext_bytes
            old_ids += [one.id for one in (older.stored, older.scrubbed) if one]
            row.scrubbed_object_id = None
        session.flush()
        names = [vaults.forget(session, object_id) for object_id in old_ids]
    vault.remove(names)
