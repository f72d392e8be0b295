"""Puts right what crashes and lost messages left of deposit jobs."""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.base.database import changes, now
from app.base.settings import Settings
from app.deposits import jobs
from app.deposits.tables import DepositRow, State
from app.registry import service as registry
from app.vault.service import Vault


def reconcile(session: Session, vault: Vault, settings: Settings) -> list[str]:
    """Puts right what a crash or a lost message left, and returns the deposits whose doorbell is to be rung.

    A running deposit whose lease ran out is queued again or, after too many attempts, failed; a queued one that was
    not announced for a while is announced again.
    """
    garbage: list[str] = []
    with session.begin():
        for row in session.scalars(
            sa.select(DepositRow).where(DepositRow.state == State.RUNNING, DepositRow.lease_until < now())
        ).all():
            garbage += _take_back(session, settings, row)
        due = now() - timedelta(seconds=settings.doorbell_seconds)
        busy = sa.select(DepositRow.model_id).where(DepositRow.state == State.RUNNING)
        silent = sa.select(DepositRow.id).where(
            DepositRow.state == State.QUEUED, DepositRow.rung_at < due, DepositRow.model_id.not_in(busy)
        )
        ids = list(session.scalars(silent.order_by(DepositRow.id).limit(1000)))
        session.execute(sa.update(DepositRow).where(DepositRow.id.in_(ids)).values(rung_at=now()))
    vault.remove(garbage)
    return ids


def _take_back(session: Session, settings: Settings, row: DepositRow) -> list[str]:
    model = registry.by_id(session, row.model_id)
    expired = sa.update(DepositRow).where(
        DepositRow.id == row.id,
        DepositRow.state == State.RUNNING,
        DepositRow.token == row.token,
        DepositRow.lease_until < now(),
    )
    if row.is_cancel_requested:
        values, action = {"state": State.CANCELLED, "finished_at": now(), "lease_until": None}, "deposit.cancelled"
    elif row.attempts >= settings.max_attempts:
        failure = (
            f"the worker was lost {row.attempts} times while it ran; look at the worker's log, then request it again."
        )
        values = {"state": State.FAILED, "finished_at": now(), "lease_until": None, "failure": failure}
        action = "deposit.failed"
    else:
        # `rung_at` in the past: the doorbell rings in this same round
        values = {"state": State.QUEUED, "lease_until": None, "rung_at": row.created_at - timedelta(days=1)}
        action = "deposit.requeued"
    if not changes(session, expired.values(**values)):
        return []
    session.refresh(row)
    audit.record(
        session, audit.RECONCILER, action, model=model.name, subject=row.id, details={"attempts": row.attempts}
    )
    return jobs.shred_what_it_used(session, row, audit.RECONCILER) if row.state != State.QUEUED else []
