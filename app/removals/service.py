"""Removal of a model: every network, module and image of it is destroyed, and nothing answers in its name any more.

Its rows stay, without keys, because the audit and certificates refer to them. So does its name
(docs/decisions/0020-a-removed-name-stays-taken.md).
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from app.access.service import Actor, Role, demand
from app.audit import service as audit
from app.base.database import Database
from app.base.settings import Settings
from app.datasets import service as datasets
from app.deposits import service as deposits
from app.evidence import service as evidence
from app.hardenings import service as hardenings
from app.measurements import service as measurements
from app.purges import service as purges
from app.rebases import service as rebases
from app.registry import service as registry
from app.registry.confirmation import demand_confirmation
from app.registry.service import ModelRow
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow, Requester
from app.vault import erasure
from app.vault.service import Vault
from app.withdrawals import service as withdrawals


@dataclass(frozen=True)
class Removed:
    """The model, when its keys are gone from backups too (None: unknown), and what still has keys or bytes."""

    model: ModelRow
    shred_effective_at: datetime | None
    still_in: list[str]
    also_in: list[str]


def remove(
    session: Session,
    database: Database,
    vault: Vault,
    settings: Settings,
    actor: Actor,
    name: str,
    confirmation: str | None,
    reason: str | None,
) -> Removed | ApprovalRow | None:
    """Destroy all that a model has in the vault, and end its jobs and withdrawals. If it is removed, do nothing.

    confirmation: repeats the name. If the model needs a second person, return a request for approval instead. A
    registration without weights is deleted without confirmation, and with its name: then return None.
    Raises `UnknownModel`, `Forbidden`, `NameNotConfirmed`.
    """
    with session.begin():
        model = registry.locked(session, name)
        if model.removed_at is None and model.revision is None:
            registry.remove_unfinished(session, actor, model)
            return None
        demand(actor, Role.ADMINISTRATOR)
        if model.removed_at is None:
            destroyed = "The removal of a model with weights destroys them, its modules and its data sets."
            reason = demand_confirmation(name, confirmation, reason, destroyed)
            if model.needs_second_person:
                wish = {"model": name}
                return second_person.request_approval(session, actor, model.id, name, Act.REMOVE, wish, reason)
            _remove(session, settings, model, Requester.of(actor), actor, reason)
    return _erased(session, database, vault, settings, model)


def remove_approved(
    session: Session, database: Database, vault: Vault, settings: Settings, actor: Actor, approval_id: str
) -> ApprovalRow:
    """Carry out a removal that another person asked for. Raises what `second_person.approve` does."""
    with session.begin():
        model = registry.lock(session, second_person.get(session, approval_id).model_id)
        approval = second_person.approve(session, actor, approval_id, Act.REMOVE, model.name)
        approval.result_id = model.id
        _remove(session, settings, model, Requester.of(approval), actor, approval.reason)
    _erased(session, database, vault, settings, model)
    return approval


def _remove(
    session: Session,
    settings: Settings,
    model: ModelRow,
    requested_by: Requester,
    actor: Actor,
    reason: str,
) -> None:
    """In the caller's transaction, under the model's lock."""
    ended = withdrawals.end_all(session, actor, model.id)
    garbage = deposits.cancel_all(session, actor, model.id)
    garbage += measurements.cancel_all(session, actor, model.id) + evidence.cancel_all(session, actor, model.id)
    garbage += hardenings.destroy_all(session, actor.name, model.id)
    garbage += rebases.cancel_all(session, actor.name, model.id)
    purged = deposits.with_modules(session, model.id)
    for row in purged:
        if row.restored_at is not None:
            deposits.end_restoration(session, actor, model, row)
        garbage += purges.destroy(session, settings, model, row, requested_by, actor, reason).garbage
    garbage += registry.shred_networks(session, model) + evidence.shred_references(session, model.id)
    for dataset_id in datasets.unshredded(session, model.id):
        garbage += datasets.shred(session, actor.name, dataset_id)
    second_person.refuse_waiting(session, actor, model.id, model.name, "The model was removed.")
    registry.note_removal(session, model, actor.name, reason)
    audit.record(
        session,
        actor.name,
        "model.removed",
        model=model.name,
        subject=model.id,
        reason=reason,
        details={
            "objects": sorted(set(garbage)),
            "deposits": [row.id for row in purged],
            "withdrawals": ended,
            **requested_by.details(),
        },
    )


def _erased(session: Session, database: Database, vault: Vault, settings: Settings, model: ModelRow) -> Removed:
    """After the transaction: wait for answers on their way, and erase what was shredded. Can be repeated."""
    registry.await_answers()
    erasure.erase(database, vault, erasure.due(database, model.id))
    assert model.removed_at is not None
    with session.begin():
        still_in = erasure.obstacles(session, model.id)
    return Removed(model, settings.backups_end(model.removed_at), still_in, database.logs_beyond_reach())
