"""Requests for approval that nobody approved in time. Apart from `service`, because the reconciler needs no torch."""

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.deposits import requests
from app.rebases import service as rebases
from app.registry import service as registry
from app.second_person import service as second_person
from app.second_person.service import ApprovalRow
from app.vault.service import Vault


def end_lapsed(session: Session, vault: Vault) -> None:
    """Record which requests have lapsed, and shred the images that only they needed."""
    with session.begin():
        lapsed = [(row.id, row.model_id) for row in second_person.lapsed(session)]
    for approval_id, model_id in lapsed:
        with session.begin():
            model = registry.lock(session, model_id)
            row = second_person.get(session, approval_id)
            is_first = second_person.record_lapse(session, row, model.name)
            garbage = release_images(session, audit.RECONCILER, row) if is_first else []
        vault.remove(garbage)


def release_images(session: Session, actor: str, approval: ApprovalRow) -> list[str]:
    """In the caller's transaction, under the model's lock: give up the images of a request that was not approved.

    Returns the vault names to remove after it.
    """
    acts = requests.release_request, rebases.release_request
    return [name for release in acts for name in release(session, actor, approval)]
