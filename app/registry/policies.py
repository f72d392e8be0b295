"""A model's policy: what becomes of networks that know deposited classes, and whether acts need a second person."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import Database
from app.base.errors import Problem
from app.registry import service as registry
from app.registry.tables import ModelRow, Original
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow
from app.vault import service as vaults
from app.vault.service import Vault


class PolicyChanged(Problem):
    status, slug, title = 412, "policy-changed", "The policy is not the one that was read"


@dataclass(frozen=True)
class Policy:
    """original: `seal` keeps the networks from before a deposit in the vault, where nobody can ask them; `destroy`
    shreds them once the deposit is made. `needs_second_person`: withdrawals, restorations, purges and changes of
    this policy.
    """

    original: Original
    needs_second_person: bool


def of(model: ModelRow) -> Policy:
    return Policy(model.original_policy, model.needs_second_person)  # type: ignore[arg-type]


def change(
    session: Session,
    database: Database,
    vault: Vault,
    actor: Actor,
    model_name: str,
    version: int,
    policy: Policy,
    reason: str,
) -> ModelRow | ApprovalRow:
    """The policy from now on, if it still has this version. `destroy` also destroys what there is already.

    Where the model demands a second person, a request for approval. Raises `UnknownModel`, `PolicyChanged`.
    """
    with session.begin():
        model = registry.lock(session, registry.get(session, model_name).id)
        _demand_version(model, version)
        if model.needs_second_person:
            wish = {"version": version, "original": policy.original, "needs_second_person": policy.needs_second_person}
            return second_person.ask(session, actor, model.id, model.name, Act.POLICY, wish, reason)
        garbage = _change(session, actor, model, policy, reason)
    vaults.erase(database, vault, garbage)
    return model


def change_approved(session: Session, database: Database, vault: Vault, actor: Actor, approval_id: str) -> ApprovalRow:
    """Carries out a change that somebody else asked for. Raises what `second_person.approve` does, `PolicyChanged`."""
    with session.begin():
        model = registry.lock(session, second_person.get(session, approval_id).model_id)
        asked = second_person.approve(session, actor, approval_id, Act.POLICY, model.name)
        if model.policy_version != asked.wish["version"]:
            raise PolicyChanged("the policy was changed since this was asked for; refuse it, and ask anew.")
        policy = Policy(asked.wish["original"], asked.wish["needs_second_person"])
        garbage = _change(session, actor, model, policy, asked.reason)
        asked.result_id = model.id
    vaults.erase(database, vault, garbage)
    return asked


def _demand_version(model: ModelRow, version: int) -> None:
    if model.policy_version != version:
        raise PolicyChanged(
            f"the policy of '{model.name}' has version {model.policy_version} now, not {version}; read it again, and "
            "send its ETag as If-Match."
        )


def _change(session: Session, actor: Actor, model: ModelRow, policy: Policy, reason: str) -> list[str]:
    before, model.policy_version = of(model), model.policy_version + 1
    model.original_policy, model.needs_second_person = policy.original, policy.needs_second_person
    session.flush()
    destroyed, garbage = destroy_older(session, model)
    audit.record(
        session,
        actor.name,
        "model.policy_changed",
        model=model.name,
        subject=model.id,
        reason=reason,
        details={"before": vars(before), "after": vars(policy), "destroyed_revisions": destroyed, "objects": garbage},
    )
    return garbage


def destroy_older(session: Session, model: ModelRow) -> tuple[list[int], list[str]]:
    """In the caller's transaction: what the policy says of revisions before the one that serves.

    Returns those that were destroyed, and the vault names to remove after the transaction.
    """
    if model.original_policy != "destroy" or model.revision is None:
        return [], []
    return registry.shred_revisions_before(session, model.id, model.revision)
