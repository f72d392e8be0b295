"""A model's policy: what happens to networks that know deposited classes, which acts need a second person, and how much
a deposit may cost.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import Database
from app.base.errors import Problem
from app.registry import service as registry
from app.registry.tables import Hardening as Hardening
from app.registry.tables import ModelRow, Original
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow
from app.vault import erasure
from app.vault.service import Vault


class PolicyChanged(Problem):
    """Somebody changed the policy since it was read. Read it again, and send its new ETag."""

    status, slug, title = 412, "policy-changed", "The policy has changed since it was read"


@dataclass(frozen=True)
class Policy:
    """original: `seal` leaves networks from before a deposit encrypted in the vault, where nobody can query them;
    `destroy` shreds them when the deposit is finished. needs_second_person: whether deposits, withdrawals,
    restorations, purges and changes to this policy need the approval of a second person.

    The bounds, in points from 0 to 100; a deposit beyond one of them is not published. max_preserved_loss: what the
    preserved classes may lose by one deposit. max_module_loss: what the deposited classes may lose when they are
    withdrawn, and those of an older deposit by this one. max_total_loss: what the preserved classes, and those of an
    older deposit, may lose since the original network, by all deposits together. hardening: `served` has each target
    hardened, and the hardened network answers while nothing is withdrawn; `export` only has it made; `none` neither.
    Its bounds are those of a deposit.
    """

    original: Original
    needs_second_person: bool
    max_preserved_loss: float = 5.0
    max_module_loss: float = 5.0
    max_total_loss: float = 10.0
    hardening: Hardening = "served"


BOUNDS = "max_preserved_loss", "max_module_loss", "max_total_loss"


def of(model: ModelRow) -> Policy:
    return Policy(
        model.original_policy,  # type: ignore[arg-type]
        model.needs_second_person,
        model.max_preserved_loss,
        model.max_module_loss,
        model.max_total_loss,
        model.hardening,  # type: ignore[arg-type]
    )


def change(
    session: Session,
    database: Database,
    vault: Vault,
    actor: Actor,
    model_name: str,
    version: int,
    wanted: Mapping[str, Any],
    reason: str,
) -> ModelRow | ApprovalRow:
    """Change the policy, if it still has this version. `destroy` also shreds the older networks that exist already.

    wanted: fields of `Policy`; those that are left out stay as they are.
    Returns the model, or a request for approval if the current policy demands a second person.
    Raises `UnknownModel`, `PolicyChanged`.
    """
    with session.begin():
        model = registry.lock_present(session, registry.get(session, model_name).id)
        _demand_version(model, version)
        policy = replace(of(model), **wanted)
        if model.needs_second_person:
            wish = {"version": version, **asdict(policy)}
            return second_person.request_approval(session, actor, model.id, model.name, Act.POLICY, wish, reason)
        garbage = _change(session, actor, model, policy, reason)
    erasure.erase(database, vault, garbage)
    return model


def change_approved(session: Session, database: Database, vault: Vault, actor: Actor, approval_id: str) -> ApprovalRow:
    """Approve and make a requested change. Raises `PolicyChanged` and the errors of `second_person.approve`."""
    with session.begin():
        model = registry.lock(session, second_person.get(session, approval_id).model_id)
        approval = second_person.approve(session, actor, approval_id, Act.POLICY, model.name)
        if model.policy_version != approval.wish["version"]:
            raise PolicyChanged(
                "The policy was changed after this request was made. Refuse the request, and send a new one."
            )
        # A request from before an upgrade does not name the bounds.
        policy = replace(of(model), **{name: value for name, value in approval.wish.items() if name != "version"})
        garbage = _change(session, actor, model, policy, approval.reason)
        approval.result_id = model.id
    erasure.erase(database, vault, garbage)
    return approval


def _demand_version(model: ModelRow, version: int) -> None:
    if model.policy_version != version:
        raise PolicyChanged(
            f"The policy of model '{model.name}' now has version {model.policy_version}, not {version}. Read it again "
            "and send its ETag as If-Match."
        )


def _change(session: Session, actor: Actor, model: ModelRow, policy: Policy, reason: str) -> list[str]:
    before, model.policy_version = of(model), model.policy_version + 1
    model.original_policy, model.needs_second_person = policy.original, policy.needs_second_person
    model.max_preserved_loss, model.max_module_loss = policy.max_preserved_loss, policy.max_module_loss
    model.max_total_loss, model.hardening = policy.max_total_loss, policy.hardening
    if before.hardening != policy.hardening:
        registry.bump_generation(session, model.id)  # another network may answer from now on
    session.flush()
    destroyed, garbage = destroy_older(session, model)
    audit.record(
        session,
        actor.name,
        "model.policy_changed",
        model=model.name,
        subject=model.id,
        reason=reason,
        details={
            "before": asdict(before),
            "after": asdict(policy),
            "destroyed_revisions": destroyed,
            "objects": garbage,
        },
    )
    return garbage


def destroy_older(session: Session, model: ModelRow) -> tuple[list[int], list[str]]:
    """Shred the revisions before the current one if the policy says so, in the caller's transaction.

    Returns the numbers of the destroyed revisions, and the names of vault objects to delete after the transaction.
    """
    if model.original_policy != "destroy" or model.revision is None:
        return [], []
    return registry.shred_revisions_before(session, model.id, model.revision)
