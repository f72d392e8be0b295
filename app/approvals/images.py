"""What becomes of the images of a request that was not approved."""

from typing import Any

from sqlalchemy.orm import Session

from app.datasets import service as datasets
from app.deposits import service as deposits
from app.hardenings import service as hardenings
from app.rebases import service as rebases
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow


def release(session: Session, actor: str, approval: ApprovalRow) -> list[str]:
    """In the caller's transaction, under the model's lock: shred the data sets of the request, as when its job ends.

    Those that it would have kept stay, and those that an unfinished job or another request that waits needs, or an
    outstanding deposit keeps. Returns the vault names to remove after the transaction.
    """
    if approval.act not in (Act.DEPOSIT, Act.REBASE):
        return []
    waiting = [
        other for act in (Act.DEPOSIT, Act.REBASE) for other in second_person.waiting(session, approval.model_id, act)
    ]
    needed = {dataset_id for other in waiting for dataset_id in _given_up(other.wish, with_kept=True)}
    users = deposits.needs_dataset, hardenings.uses_dataset, rebases.uses_dataset
    return [
        name
        for dataset_id in _given_up(approval.wish)
        if dataset_id not in needed and not any(uses(session, dataset_id) for uses in users)
        for name in datasets.shred(session, actor, dataset_id)
    ]


def _given_up(wish: dict[str, Any], *, with_kept: bool = False) -> list[str]:
    """The sets that end with the job. Requests of an earlier version have no preserved set."""
    sets = ("dataset_id", "keep_dataset"), ("preserved_set_id", "keep_preserved_set")
    return [wish[name] for name, keep in sets if wish.get(name) and (with_kept or not wish.get(keep))]
