"""The hardened network as a model's new base: what was there before, and can relearn purged classes, is destroyed."""

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import Database, now, stamp
from app.base.errors import Problem
from app.base.settings import Settings
from app.deposits import service as deposits
from app.hardenings import jobs
from app.hardenings import service as hardenings
from app.hardenings.jobs import HardenedNetwork
from app.registry import service as registry
from app.registry.confirmation import demand_confirmation
from app.registry.service import ModelRow, NewBase
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow, Requester
from app.vault import erasure
from app.vault.service import Binding, Kind, StoredObject, Vault
from lirf_core.enumeration import enumerated

CAN_RELEARN = (
    "The sealed working target, the sealed upper part and the modules of other deposits, if there are any, come from "
    "networks that were trained with the purged classes. They no longer answer them, but anyone who had them could "
    "relearn the classes sooner than from a network that never knew them."
)


class BaseNotPossible(Problem):
    """Modules of the deposits in `deposits` still need the networks that would be destroyed, or there is no hardened
    network. Purge these deposits, or harden the target first.
    """

    status, slug, title = 409, "base-not-possible", "The hardened network cannot become the base"


@dataclass(frozen=True)
class Rest:
    """What can still relearn purged classes, how to end that, and the deposits that stand in the way."""

    what: str
    cure: str
    deposits: list[str]


@dataclass(frozen=True)
class Based:
    """The model on its new base, when backups lose the keys (None: unknown), and what still has keys or bytes."""

    model: ModelRow
    destroyed_revisions: list[int]
    shred_effective_at: datetime | None
    still_in: list[str]
    also_in: list[str]


def rest(session: Session, model: ModelRow) -> Rest:
    """What a purge leaves behind. Read it after the purge."""
    ids = _in_the_way(session, model)
    why_not = _why_not(session, model, ids)
    make = f"`lirf new-base {model.name}` or `POST /v1/models/{model.name}/base` makes the hardened network the base"
    cure = f"{make}, and destroys them." if why_not is None else f"{why_not} Then {make}, and destroys them."
    return Rest(CAN_RELEARN, cure, ids)


def make_base(
    session: Session,
    database: Database,
    vault: Vault,
    settings: Settings,
    actor: Actor,
    name: str,
    confirmation: str,
    reason: str,
) -> Based | ApprovalRow:
    """Put the hardened network in place of everything older, for good. Later deposits start from it.

    confirmation: repeats the name. If the model needs a second person, return a request for approval instead.
    Raises `UnknownModel`, `WeightsMissing`, `NameNotConfirmed`, `BaseNotPossible`.
    """
    with session.begin():
        model = registry.get_ready(session, name)
        demand_confirmation(name, confirmation, reason, "A new base destroys every network but the hardened one.")
        model = registry.lock_present(session, model.id)
        if model.needs_second_person:  # whether it is possible is checked when somebody approves: purges may come first
            return second_person.request_approval(session, actor, model.id, name, Act.BASE, {"model": name}, reason)
        hardened = _possible(session, model)
    return _make(session, database, vault, settings, actor, model, hardened, reason, None)


def make_approved(
    session: Session, database: Database, vault: Vault, settings: Settings, actor: Actor, approval_id: str
) -> ApprovalRow:
    """Carry out what another person asked for. Raises what `make_base` and `second_person.approve` do."""
    with session.begin():
        approval = second_person.get(session, approval_id)
        model = registry.lock(session, approval.model_id)
        hardened = _possible(session, model)
    _make(session, database, vault, settings, actor, model, hardened, approval.reason, approval_id)
    return approval


def _make(
    session: Session,
    database: Database,
    vault: Vault,
    settings: Settings,
    actor: Actor,
    model: ModelRow,
    hardened: HardenedNetwork,
    reason: str,
    approval_id: str | None,
) -> Based:
    with ExitStack() as on_error:
        base = _stored(vault, model, hardened, on_error)
        with session.begin():
            model = registry.lock_present(session, model.id)
            if _possible(session, model).object_names != hardened.object_names:
                raise BaseNotPossible(f"Model '{model.name}' was hardened anew just now. Ask again.")
            requester = Requester.of(actor)
            if approval_id:
                approval = second_person.approve(session, actor, approval_id, Act.BASE, model.name)
                approval.result_id, requester = model.id, Requester.of(approval)
            garbage = hardenings.cancel_all(session, actor.name, model.id)
            garbage += jobs.shred_hardened(session, model.id)
            destroyed, older = registry.replace_base(session, model, base)
            garbage += older
            until = settings.backups_end(now())
            details: dict[str, Any] = {"revision": model.revision, "destroyed_revisions": destroyed, "objects": garbage}
            details |= {"shred_effective_at": stamp(until), **requester.details()}
            audit.record(
                session,
                actor.name,
                "model.new_base",
                model=model.name,
                subject=model.id,
                reason=reason,
                details=details,
            )
    registry.await_answers()
    erasure.erase(database, vault, erasure.due(database, model.id))
    with session.begin():
        still_in = erasure.obstacles(session, model.id)
    return Based(model, destroyed, until, still_in, database.logs_beyond_reach())


def _stored(vault: Vault, model: ModelRow, hardened: HardenedNetwork, on_error: ExitStack) -> NewBase:
    """The hardened network in the parts that a revision has."""
    from lirf_core import artifacts  # imports torch, which processes that only read rows do not need
    from lirf_core import class_rows as rows
    from lirf_core.belonging import Belonging
    from lirf_core.network import digest

    network = hardened.open(vault)
    belonging = Belonging(registry.spec_of(model), model.split, digest(network.upper))
    kept = rows.take(network, rows.present(network))

    def put(kind: Kind, plaintext: bytes) -> StoredObject:
        stored = vault.put(Binding(kind, model.id, model.id), [plaintext])
        on_error.enter_context(vault.discarded_on_error(stored))
        return stored

    base = NewBase(
        put("trunk", artifacts.dump_trunk(network, belonging)),
        put("rows", artifacts.dump_rows(kept, belonging)),
        put("lower", artifacts.dump_lower(network, belonging)),
        belonging.upper_digest,
    )
    read_back = artifacts.load_network(vault.read(base.trunk), vault.read(base.lower), belonging, vault.read(base.rows))
    assert digest(read_back) == digest(network)
    return base


def _possible(session: Session, model: ModelRow) -> HardenedNetwork:
    """In the caller's transaction, under the model's lock. Raises `BaseNotPossible`."""
    ids = _in_the_way(session, model)
    if why_not := _why_not(session, model, ids):
        raise BaseNotPossible(why_not, deposits=ids)
    hardened = hardenings.hardened(session, model)
    assert hardened
    return hardened


def _in_the_way(session: Session, model: ModelRow) -> list[str]:
    """The deposits whose modules belong to the sealed upper part, and those that are being made."""
    return [*deposits.outstanding(session, model.id), *deposits.unfinished_ids(session, model.id)]


def _why_not(session: Session, model: ModelRow, ids: list[str]) -> str | None:
    if ids:
        named = enumerated([f"'{deposit_id}'" for deposit_id in ids[:10]])
        return f"{len(ids)} deposits still need these networks ({named}). Purge or cancel them first."
    if hardenings.hardened(session, model) is None:
        return (
            f"The revision in service has no hardened network. Harden it first, with images of deposited classes: "
            f"`lirf harden {model.name}`."
        )
    return None
