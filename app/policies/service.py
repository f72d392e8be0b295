"""Changes of a model's policy, which a second person may have to approve."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import Database
from app.base.errors import Problem
from app.deposits import scrubbed
from app.deposits.scrubbed import Replaced
from app.measurements import service as measurements
from app.rebases import service as rebases
from app.registry import policies
from app.registry import service as registry
from app.registry.policies import Policy
from app.registry.service import ModelRow
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow
from app.vault import erasure
from app.vault.service import Vault


class PolicyChanged(Problem):
    """Somebody changed the policy since it was read. Read it again, and send its new ETag."""

    status, slug, title = 412, "policy-changed", "The policy has changed since it was read"


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
    """Change the policy, if it still has this version.

    If it becomes stricter, older networks, and modules that a scrubbed one waits to replace, are destroyed at once.
    wanted: fields of `Policy`; those that are left out stay as they are.
    Returns the model, or a request for approval if the current policy demands a second person.
    Raises `UnknownModel`, `PolicyChanged`.
    """
    with session.begin():
        model = registry.lock_present(session, registry.get(session, model_name).id)
        _demand_version(model, version)
        policy = replace(policies.of(model), **wanted)
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
        wanted = {name: value for name, value in approval.wish.items() if name != "version"}
        policy = replace(policies.of(model), **wanted)
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
    before, model.policy_version = policies.of(model), model.policy_version + 1
    model.original_policy, model.needs_second_person = policy.original, policy.needs_second_person
    model.max_preserved_loss, model.max_module_loss = policy.max_preserved_loss, policy.max_module_loss
    model.max_total_loss, model.hardening = policy.max_total_loss, policy.hardening
    model.scrub = policy.scrub
    if before.hardening != policy.hardening:
        registry.bump_generation(session, model.id)  # another network may answer from now on
    session.flush()
    destroyed, garbage = policies.destroy_older(session, model)
    if policy.original == "destroy":  # its checkpoints know what the original knew
        garbage += rebases.cancel_all(session, actor.name, model.id)
    replaced = scrubbed.put_in_place(session, model.id) if policy.scrubs_at_once else Replaced([], [])
    garbage += replaced.garbage
    if replaced.deposits:
        measurements.request_anew(session, actor.name, model)
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
            "scrubbed_modules_of": replaced.deposits,
            "objects": garbage,
        },
    )
    return garbage
