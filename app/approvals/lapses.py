"""Requests for approval that nobody approved in time. Apart from `service`, because the reconciler needs no torch."""

from sqlalchemy.orm import Session

from app.approvals import images
from app.audit import service as audit
from app.registry import service as registry
from app.second_person import service as second_person
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
            garbage = images.release(session, audit.RECONCILER, row) if is_first else []
        vault.remove(garbage)
