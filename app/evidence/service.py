"""Evidence of a deposit as its users see it: asked for, followed, read, cancelled."""

import logging
from collections.abc import Sequence
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, undefer

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import changes, new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.datasets import service as datasets
from app.datasets.service import Purpose
from app.deposits import service as deposits
from app.deposits.service import DepositRow
from app.evidence.jobs import WORKER
from app.evidence.schemas import EvidenceCreate
from app.evidence.tables import EvidenceRow as EvidenceRow
from app.evidence.tables import State as State
from app.registry import service as registry

log = logging.getLogger(__name__)
UNFINISHED = (State.QUEUED, State.RUNNING)


class UnknownEvidence(Problem):
    status, slug, title = 404, "unknown-evidence", "There is no such evidence"


class NothingToExamine(Problem):
    status, slug, title = 409, "nothing-to-examine", "The deposit has not been made"


class NoEvaluationSet(Problem):
    status, slug, title = 409, "no-evaluation-set", "There are no held-out images"


class EvidenceUnfinished(Problem):
    status, slug, title = 409, "evidence-unfinished", "Evidence of this deposit is being gathered"


class ReferenceDiffers(Problem):
    status, slug, title = 422, "reference-differs", "The reference answers other classes or other images"


class MembersDiffer(Problem):
    status, slug, title = 422, "members-differ", "The deposit set has other classes than the deposit"


class EvidenceEnded(Problem):
    status, slug, title = 409, "evidence-ended", "The examination has ended"


def request(session: Session, actor: Actor, deposit_id: str, body: EvidenceCreate) -> EvidenceRow:
    """Queues an examination.

    Raises `UnknownDeposit`, `NothingToExamine`, `NoEvaluationSet`, `UnknownDataset`, `DatasetGone`, `MembersDiffer`,
    `UnknownModel`, `WeightsMissing`, `ReferenceDiffers`, `EvidenceUnfinished`.
    """
    with session.begin():
        model, deposit = deposits.locked(session, deposit_id)
        if deposit.revision is None:
            raise NothingToExamine(f"deposit '{deposit.id}' is {deposit.state}; only what was deposited is examined.")
        members_id = body.dataset_id or _own_members(session, deposit)
        if body.dataset_id:
            members = datasets.get_usable(session, model.id, body.dataset_id, Purpose.DEPOSIT)
            names = deposits.class_names(session, deposit)
            if sorted(members.counts) != sorted(names):
                raise MembersDiffer(
                    f"data set '{members.id}' has images of {', '.join(sorted(members.counts))}; the deposit is of "
                    f"{', '.join(names)}: upload images of exactly these."
                )
        reference = registry.get_ready(session, body.reference) if body.reference else None
        if reference and reference.id == model.id:
            raise ReferenceDiffers(f"model '{model.name}' knew the classes; name one that never saw them.")
        if reference and not registry.is_alike(model, reference):
            raise ReferenceDiffers(
                f"model '{reference.name}' has not the architecture, the classes, or the image size and normalisation "
                f"of '{model.name}'; register a reference with the same `architecture`, `classes` and `preprocessing`."
            )
        evaluation_id = body.evaluation_set_id or _evaluation_set(session, deposit)
        if evaluation_id is None:
            raise NoEvaluationSet(
                f"model '{model.name}' has no evaluation set; upload held-out images with "
                f"`POST /v1/models/{model.name}/datasets?purpose=evaluation`."
            )
        datasets.get_usable(session, model.id, evaluation_id, Purpose.EVALUATION)
        return _queue(session, deposit, actor.name, evaluation_id, members_id, reference)


def request_wanted(session: Session) -> list[str]:
    """Queues the examination of each deposit that was made and wants one; returns their ids."""
    queued = []
    with session.begin():
        wanting = deposits.wanting_evidence(session)
    for deposit_id in wanting:
        try:
            queued += _request_wanted(session, deposit_id)
        except SQLAlchemyError:
            raise
        except Exception:  # none is in the way of the others
            log.exception("evidence of deposit %s cannot be asked for", deposit_id)
    return queued


def _request_wanted(session: Session, deposit_id: str) -> list[str]:
    with session.begin():
        deposit = deposits.take_wanting_evidence(session, deposit_id)
        evaluation_id = _evaluation_set(session, deposit) if deposit else None
        if deposit is None or evaluation_id is None:
            return []
        with suppress(EvidenceUnfinished):  # somebody asked for it already
            return [_queue(session, deposit, WORKER, evaluation_id, _own_members(session, deposit), None).id]
    return []


def _queue(
    session: Session,
    deposit: DepositRow,
    by: str,
    evaluation_set_id: str,
    members_id: str | None,
    reference: registry.ModelRow | None,
) -> EvidenceRow:
    """In the caller's transaction. Raises `EvidenceUnfinished`."""
    row = EvidenceRow(
        id=new_id(),
        deposit_id=deposit.id,
        state=State.QUEUED,
        evaluation_set_id=evaluation_set_id,
        members_id=members_id,
        reference_id=reference.id if reference else None,
        created_at=now(),
        created_by=by,
        rung_at=now(),
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # the unique index: one of a deposit at a time
        raise EvidenceUnfinished(
            f"evidence of deposit '{deposit.id}' is being gathered; follow it with "
            f"`GET /v1/deposits/{deposit.id}/evidence`, or cancel it."
        ) from None
    model = registry.by_id(session, deposit.model_id)
    details = {
        "deposit": deposit.id,
        "evaluation_set": evaluation_set_id,
        "dataset": members_id,
        "reference": reference.name if reference else None,
    }
    audit.record(session, by, "evidence.requested", model=model.name, subject=row.id, details=details)
    return row


def cancel(session: Session, actor: Actor, evidence_id: str) -> EvidenceRow:
    """Ends it at once; a worker that is at it notices. Raises `UnknownEvidence`, `EvidenceEnded`."""
    with session.begin():
        row = get(session, evidence_id)
        unfinished = sa.update(EvidenceRow).where(EvidenceRow.id == row.id, EvidenceRow.state.in_(UNFINISHED))
        if not changes(session, unfinished.values(state=State.CANCELLED, finished_at=now(), lease_until=None)):
            session.refresh(row)
            raise EvidenceEnded(f"evidence '{row.id}' is {row.state}; only what has not ended is cancelled.")
        session.refresh(row)
        model = model_of(session, row)
        audit.record(session, actor.name, "evidence.cancelled", model=model.name, subject=row.id)
    return row


def get(session: Session, evidence_id: str) -> EvidenceRow:
    """With what was found. Raises `UnknownEvidence`."""
    row = session.get(EvidenceRow, evidence_id, options=[undefer(EvidenceRow.found)])
    if row is None:
        raise UnknownEvidence(
            f"there is no evidence '{evidence_id[:64]}'; `GET /v1/deposits/ID/evidence` lists a deposit's."
        )
    return row


def list_of_deposit(session: Session, deposit_id: str, page: PageRequest) -> tuple[Sequence[EvidenceRow], str | None]:
    """Newest first, without what was found. Raises `UnknownDeposit`."""
    deposit = deposits.get(session, deposit_id)
    query = sa.select(EvidenceRow).where(EvidenceRow.deposit_id == deposit.id)
    return newest_first(session, query, EvidenceRow.id, page)


def newest_found(session: Session, deposit_id: str) -> EvidenceRow | None:
    """The newest of a deposit that has finished, with what was found."""
    finished = EvidenceRow.deposit_id == deposit_id, EvidenceRow.state == State.FINISHED
    query = sa.select(EvidenceRow).where(*finished).order_by(EvidenceRow.id.desc()).limit(1)
    return session.scalar(query.options(undefer(EvidenceRow.found)))


def model_of(session: Session, row: EvidenceRow) -> registry.ModelRow:
    return registry.by_id(session, deposits.get(session, row.deposit_id).model_id)


def reference_name(session: Session, row: EvidenceRow) -> str | None:
    return registry.by_id(session, row.reference_id).name if row.reference_id else None


def _own_members(session: Session, deposit: DepositRow) -> str | None:
    return None if datasets.get(session, deposit.dataset_id).shredded_at else deposit.dataset_id


def _evaluation_set(session: Session, deposit: DepositRow) -> str | None:
    """The deposit's, where it is still there, or the model's newest."""
    if deposit.evaluation_set_id and not datasets.get(session, deposit.evaluation_set_id).shredded_at:
        return deposit.evaluation_set_id
    newest = datasets.newest_evaluation_set(session, deposit.model_id)
    return newest.id if newest else None
