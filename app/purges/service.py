"""Purge: destroy a deposit module for good, and with it every older network and module that knows its classes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import Database, stamp
from app.base.errors import Problem
from app.base.settings import Settings
from app.deposits import scrubbed, separation
from app.deposits import service as deposits
from app.deposits.service import DepositRow
from app.hardenings import base
from app.hardenings import service as hardenings
from app.measurements import service as measurements
from app.rebases import service as rebases
from app.registry import service as registry
from app.second_person import service as second_person
from app.second_person.service import Act, Requester
from app.second_person.service import ApprovalRow as ApprovalRow
from app.vault import erasure
from app.vault.service import Vault
from app.withdrawals import service as withdrawals
from lirf_core.enumeration import enumerated

log = logging.getLogger(__name__)


class StillWithdrawn(Problem):
    """An active withdrawal uses the deposit. Revoke the withdrawals in `withdrawals` first."""

    status, slug, title = 409, "still-withdrawn", "The deposit is still withdrawn"


class ClassesNotConfirmed(Problem):
    """`classes` must repeat the deposit's classes exactly, because a purge cannot be undone."""

    status, slug, title = 422, "classes-not-confirmed", "The confirmation does not name the classes of the deposit"


@dataclass(frozen=True)
class Purged:
    """shred_effective_at: when its keys are gone from backups too; None if no setting says how long these are kept.

    still_in: what still has keys or bytes, and why. also_in: what has copies of keys that cannot be erased from here.
    rest: what can still relearn the classes. scrubbed: the older deposits whose module knew the classes, so that their
    scrubbed one took its place.
    """

    deposit: DepositRow
    shred_effective_at: datetime | None
    still_in: list[str]
    also_in: list[str]
    rest: base.Rest
    scrubbed: list[str]


@dataclass(frozen=True)
class Destroyed:
    """garbage: vault objects to remove after the transaction. For the others see `Purged`."""

    shred_effective_at: datetime | None
    garbage: list[str]
    scrubbed: list[str]


def purge(
    session: Session,
    database: Database,
    vault: Vault,
    settings: Settings,
    actor: Actor,
    deposit_id: str,
    classes: Sequence[str],
    reason: str,
) -> Purged | ApprovalRow:
    """Destroy the keys of the deposit module and of the revisions before the deposit's own, then their bytes.

    Older modules that know the classes are destroyed, too, and their scrubbed ones take their place. The classes stay
    forgotten, and nobody can withdraw them again. classes: repeats the deposit's, as a confirmation.
    If the model needs a second person, return a request for approval instead.
    Raises `UnknownDeposit`, `NotDeposited`, `ModulePurged`, `Restored`, `ClassesNotConfirmed`, `StillWithdrawn`.
    """
    with session.begin():
        model, row = _purgeable(session, deposit_id, classes)
        if model.needs_second_person:
            wish = {"deposit": deposit_id, "classes": list(classes)}
            return second_person.request_approval(session, actor, model.id, model.name, Act.PURGE, wish, reason)
        destroyed = destroy(session, settings, model, row, Requester.of(actor), actor, reason)
        _measure_anew(session, actor, model, destroyed)
    erasure.erase(database, vault, destroyed.garbage)
    left = _destroy_rows(database, vault, row)
    with session.begin():
        still_in, rest = erasure.obstacles(session, row.model_id) + left, base.rest(session, model)
    beyond_reach = database.logs_beyond_reach()
    return Purged(row, destroyed.shred_effective_at, still_in, beyond_reach, rest, destroyed.scrubbed)


def purge_approved(
    session: Session, database: Database, vault: Vault, settings: Settings, actor: Actor, approval_id: str
) -> ApprovalRow:
    """Carry out a purge that another person asked for. Raises what `purge` and `second_person.approve` do."""
    with session.begin():
        approval = second_person.get(session, approval_id)
        model, row = _purgeable(session, approval.wish["deposit"], approval.wish["classes"])
        approval = second_person.approve(session, actor, approval_id, Act.PURGE, model.name)
        approval.result_id = row.id
        destroyed = destroy(session, settings, model, row, Requester.of(approval), actor, approval.reason)
        _measure_anew(session, actor, model, destroyed)
    erasure.erase(database, vault, destroyed.garbage)
    _destroy_rows(database, vault, row)
    return approval


def _measure_anew(session: Session, actor: Actor, model: registry.ModelRow, destroyed: Destroyed) -> None:
    if destroyed.scrubbed:
        measurements.request_anew(session, actor.name, model)


def _destroy_rows(database: Database, vault: Vault, row: DepositRow) -> list[str]:
    """If an earlier version stored the model, its upper part still has the purged classes' rows. Says what is left."""
    try:
        separation.separate(database, vault, row.model_id)
    except Exception:
        log.exception("the rows of deposit %s are still in the upper part; workers try again when they start", row.id)
        return ["The upper part, which an earlier version stored, still has the rows of the purged classes."]
    return []


def destroy(
    session: Session,
    settings: Settings,
    model: registry.ModelRow,
    row: DepositRow,
    requester: Requester,
    actor: Actor,
    reason: str,
) -> Destroyed:
    """In the caller's transaction."""
    assert row.revision is not None
    revisions, garbage = registry.shred_revisions_before(session, model.id, row.revision)
    garbage += deposits.purge_module(session, actor, row, reason)
    replaced = scrubbed.put_in_place(session, model.id, row)
    garbage += replaced.garbage
    garbage += rebases.cancel_all(session, actor.name, model.id)
    garbage += hardenings.cancel_with_images_of(session, actor.name, model, deposits.class_names(session, row))
    registry.bump_generation(session, model.id)
    assert row.purged_at is not None
    shred_effective_at = settings.backups_end(row.purged_at)
    audit.record(
        session,
        actor.name,
        "deposit.purged",
        model=model.name,
        subject=row.id,
        reason=reason,
        details={
            "classes": deposits.class_names(session, row),
            "objects": garbage,
            "revisions": revisions,
            "scrubbed_modules_of": replaced.deposits,
            "shred_effective_at": stamp(shred_effective_at),
            **requester.details(),
        },
    )
    return Destroyed(shred_effective_at, garbage, replaced.deposits)


def _purgeable(session: Session, deposit_id: str, classes: Sequence[str]) -> tuple[registry.ModelRow, DepositRow]:
    """In the caller's transaction: the locked model and the deposit, after checking that it may be purged."""
    model, row = deposits.locked(session, deposit_id)
    deposits.module(session, row)  # refuses if there is no module
    deposits.demand_not_restored(row)
    names = deposits.class_names(session, row)
    if sorted(classes) != sorted(names):
        raise ClassesNotConfirmed(
            f"Deposit '{row.id}' holds {enumerated([repr(name) for name in names])}. A purge cannot be undone. Name "
            "exactly these classes to confirm it."
        )
    active = withdrawals.active(session, row.model_id)
    if ids := [withdrawal.id for withdrawal in active if row.id in withdrawals.deposit_ids(session, withdrawal)]:
        raise StillWithdrawn(
            f"This deposit is withdrawn. Revoke its {len(ids)} active withdrawals first: {enumerated(ids)}.",
            withdrawals=ids,
        )
    return model, row
