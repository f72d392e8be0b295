"""Evidence of a deposit as its users see it: request, follow, read, cancel."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, undefer

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.datasets import service as datasets
from app.datasets.service import Purpose
from app.deposits import service as deposits
from app.deposits.service import DepositRow
from app.evidence.jobs import JOBS
from app.evidence.jobs import uses_dataset as uses_dataset
from app.evidence.tables import UNFINISHED as UNFINISHED
from app.evidence.tables import EvidenceRow as EvidenceRow
from app.evidence.tables import State as State
from app.jobs.machine import WORKER, AlreadyEnded
from app.registry import service as registry
from app.vault import service as vaults
from app.vault.service import Vault
from lirf_core.enumeration import enumerated

if TYPE_CHECKING:  # the schemas import torch, which the reconciler does not need
    from app.evidence.schemas import EvidenceCreate, TrainedReference
    from lirf_core.evidence.attacks.config import Strength

LISTED = 20  # class names in a message
LEAST_CLASSES, LEAST_IMAGES = 2, 20  # of a reference's images

log = logging.getLogger(__name__)


class UnknownEvidence(Problem):
    """No evidence has this id. `GET /v1/deposits/{id}/evidence` lists a deposit's evidence."""

    status, slug, title = 404, "unknown-evidence", "There is no such evidence"


class NothingToExamine(Problem):
    """The deposit has not finished, has failed, or was cancelled. Only a finished deposit is examined."""

    status, slug, title = 409, "nothing-to-examine", "The deposit has not been made"


class SamplesNotExamined(Problem):
    """The deposit is of single images, whose classes the model still answers. Its `metrics` show their membership."""

    status, slug, title = 409, "samples-not-examined", "Deposits of single images are not examined"


class NoEvaluationSet(Problem):
    """The model has no held-out images. Upload some with `purpose=evaluation`."""

    status, slug, title = 409, "no-evaluation-set", "There are no held-out images"


class EvidenceUnfinished(Problem):
    """An examination of this deposit has not ended. Follow it, or cancel it."""

    status, slug, title = 409, "evidence-unfinished", "Evidence of this deposit is being gathered"


class ReferenceDiffers(Problem):
    """The reference differs from the model, or knew the classes. Name a model that never saw them."""

    status, slug, title = 422, "reference-differs", "The reference differs from the model"


class ReferenceSetUnfit(Problem):
    """The reference's images show deposited classes, or too few others. It must never see what was deposited."""

    status, slug, title = 422, "reference-set-unfit", "No reference can be trained from these images"


class MembersDiffer(Problem):
    """The data set has images of other classes than the deposit. Upload images of exactly its classes."""

    status, slug, title = 422, "members-differ", "The deposit set and the deposit have different classes"


class EvidenceEnded(Problem):
    """The examination has ended. Only one that is queued or running can be cancelled."""

    status, slug, title = 409, "evidence-ended", "The examination has ended"


def request(session: Session, actor: Actor, deposit_id: str, body: "EvidenceCreate") -> EvidenceRow:
    """Queue an examination.

    Raises `UnknownDeposit`, `NothingToExamine`, `NoEvaluationSet`, `UnknownDataset`, `DatasetShredded`,
    `SamplesNotExamined`, `MembersDiffer`, `UnknownModel`, `WeightsMissing`, `ReferenceDiffers`, `ReferenceSetUnfit`,
    `EvidenceUnfinished`.
    """
    with session.begin():
        model, deposit = deposits.locked(session, deposit_id)
        if deposit.revision is None:
            raise NothingToExamine(
                f"Deposit '{deposit.id}' is {deposit.state}. Only a finished deposit can be examined."
            )
        if deposit.kind == deposits.Kind.SAMPLES:
            raise SamplesNotExamined(
                f"Deposit '{deposit.id}' is of single images: the model still answers their classes, so an examination "
                "of forgotten classes says nothing. Its `metrics.membership` shows whether an attacker can tell the "
                "images from others; it was measured when the deposit was made."
            )
        members_id = body.dataset_id or _own_members(session, deposit)
        if body.dataset_id:
            members = datasets.get_usable(session, model.id, body.dataset_id, Purpose.DEPOSIT)
            names = deposits.class_names(session, deposit)
            if sorted(members.counts) != sorted(names):
                raise MembersDiffer(
                    f"Data set '{members.id}' has images of {', '.join(sorted(members.counts))}, but the deposit holds "
                    f"{', '.join(names)}. Upload images of exactly these classes."
                )
        named, images = (body.reference, None) if isinstance(body.reference, str) else (None, body.reference)
        reference = registry.get_ready(session, named) if named else None
        if images:
            _demand_fit(session, model, deposit, images.train_on)
        if reference and reference.id == model.id:
            raise ReferenceDiffers(f"Model '{model.name}' knew the classes. Name a model that never saw them.")
        if reference and not registry.is_comparable(model, reference):
            raise ReferenceDiffers(
                f"Model '{reference.name}' differs from '{model.name}'. Register a reference with the same "
                "`architecture`, `classes` and `preprocessing`."
            )
        evaluation_id = body.evaluation_set_id or _evaluation_set(session, deposit)
        if evaluation_id is None:
            raise NoEvaluationSet(
                f"Model '{model.name}' has no evaluation set. Upload held-out images with "
                f"`POST /v1/models/{model.name}/datasets?purpose=evaluation`."
            )
        datasets.get_usable(session, model.id, evaluation_id, Purpose.EVALUATION)
        return _queue(session, deposit, actor.name, evaluation_id, members_id, reference, body.attackers, images)


def _demand_fit(session: Session, model: registry.ModelRow, deposit: DepositRow, dataset_id: str) -> None:
    """Whether a reference of this deposit can be trained from the data set.

    Raises `UnknownDataset`, `DatasetShredded`, `ReferenceSetUnfit`.
    """
    counts = datasets.get_usable(session, model.id, dataset_id, Purpose.REFERENCE).counts
    held = {model.class_names[index] for index in registry.deposited(session, model.id)}
    held |= set(deposits.class_names(session, deposit))
    if seen := [name for name in counts if name in held]:
        quoted = enumerated([f"'{name}'" for name in seen], LISTED)
        raise ReferenceSetUnfit(
            f"Data set '{dataset_id}' has images of {quoted}, which "
            f"{'is' if len(seen) == 1 else 'are'} deposited. A reference must never see deposited classes. Upload "
            "images of preserved classes only."
        )
    if len(counts) < LEAST_CLASSES or sum(counts.values()) < LEAST_IMAGES:
        raise ReferenceSetUnfit(
            f"Data set '{dataset_id}' has {sum(counts.values())} images of {len(counts)} classes. A reference needs at "
            f"least {LEAST_IMAGES} images of at least {LEAST_CLASSES} preserved classes."
        )


def request_wanted(session: Session) -> list[str]:
    """Queue the examination of each finished deposit that waits for one. Returns the ids of the evidence."""
    queued = []
    with session.begin():
        wanting = deposits.wanting_evidence(session)
    for deposit_id in wanting:
        try:
            queued += _request_wanted(session, deposit_id)
        except SQLAlchemyError:
            raise
        except Exception:  # one that fails must not stop the others
            log.exception("the examination of deposit %s cannot be queued", deposit_id)
    return queued


def _request_wanted(session: Session, deposit_id: str) -> list[str]:
    with session.begin():
        deposit = deposits.take_wanting_evidence(session, deposit_id)
        evaluation_id = _evaluation_set(session, deposit) if deposit else None
        if deposit is None or evaluation_id is None:
            return []
        with suppress(EvidenceUnfinished):  # somebody has requested it already
            return [_queue(session, deposit, WORKER, evaluation_id, _own_members(session, deposit), None).id]
    return []


def _queue(
    session: Session,
    deposit: DepositRow,
    by: str,
    evaluation_set_id: str,
    members_id: str | None,
    reference: registry.ModelRow | None,
    attackers: "Strength" = "small",
    images: "TrainedReference | None" = None,
) -> EvidenceRow:
    """In the caller's transaction. Raises `EvidenceUnfinished`."""
    row = EvidenceRow(
        id=new_id(),
        deposit_id=deposit.id,
        state=State.QUEUED,
        evaluation_set_id=evaluation_set_id,
        members_id=members_id,
        reference_id=reference.id if reference else None,
        reference_set_id=images.train_on if images else None,
        keeps_reference_set=images.keep_dataset if images else False,
        attackers=attackers,
        created_at=now(),
        created_by=by,
        rung_at=now(),
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # a unique index: one unfinished examination for each deposit
        raise EvidenceUnfinished(
            f"Evidence of deposit '{deposit.id}' is being gathered. Follow it with "
            f"`GET /v1/deposits/{deposit.id}/evidence`, or cancel it."
        ) from None
    model = registry.by_id(session, deposit.model_id)
    details = {
        "deposit": deposit.id,
        "evaluation_set": evaluation_set_id,
        "dataset": members_id,
        "reference": reference.name if reference else None,
        "attackers": attackers,
        **({"reference_set": images.train_on, "keep_dataset": images.keep_dataset} if images else {}),
    }
    audit.record(session, by, "evidence.requested", model=model.name, subject=row.id, details=details)
    return row


def cancel(session: Session, vault: Vault, actor: Actor, evidence_id: str) -> EvidenceRow:
    """End an examination at once; its worker stops at its next step. Raises `UnknownEvidence`, `EvidenceEnded`."""
    with session.begin():
        row = get(session, evidence_id)
        try:
            garbage = JOBS.cancel(session, row, actor.name)
        except AlreadyEnded:
            raise EvidenceEnded(
                f"Evidence '{row.id}' is {row.state}. Only an examination that has not ended can be cancelled."
            ) from None
    vault.remove(garbage)
    return row


def cancel_all(session: Session, actor: Actor, model_id: str) -> list[str]:
    """In the caller's transaction: end every unfinished examination of a model.

    Returns the vault names to remove after it.
    """
    return JOBS.cancel_all(session, actor.name, EvidenceRow.deposit_id.in_(deposits.ids_of_model(model_id)))


def shred_references(session: Session, model_id: str) -> list[str]:
    """In the caller's transaction: destroy every reference that was trained for this model's deposits.

    Returns the vault names to remove after it.
    """
    of_model = EvidenceRow.deposit_id.in_(deposits.ids_of_model(model_id)), EvidenceRow.reference_object_id.is_not(None)
    object_ids = session.scalars(sa.select(EvidenceRow.reference_object_id).where(*of_model)).all()
    return [vaults.shred(session, object_id) for object_id in object_ids if object_id]


def get(session: Session, evidence_id: str) -> EvidenceRow:
    """Loads `found`, too. Raises `UnknownEvidence`."""
    row = session.get(EvidenceRow, evidence_id, options=[undefer(EvidenceRow.found)])
    if row is None:
        raise UnknownEvidence(
            f"There is no evidence '{evidence_id[:64]}'. `GET /v1/deposits/ID/evidence` lists a deposit's evidence."
        )
    return row


def list_of_deposit(session: Session, deposit_id: str, page: PageRequest) -> tuple[Sequence[EvidenceRow], str | None]:
    """Newest first, without loading `found`. Raises `UnknownDeposit`."""
    deposit = deposits.get(session, deposit_id)
    query = sa.select(EvidenceRow).where(EvidenceRow.deposit_id == deposit.id)
    return newest_first(session, query, EvidenceRow.id, page)


def newest_found(session: Session, deposit_id: str) -> EvidenceRow | None:
    """A deposit's newest finished evidence, with `found` loaded."""
    finished = EvidenceRow.deposit_id == deposit_id, EvidenceRow.state == State.FINISHED
    query = sa.select(EvidenceRow).where(*finished).order_by(EvidenceRow.id.desc()).limit(1)
    return session.scalar(query.options(undefer(EvidenceRow.found)))


def model_of(session: Session, row: EvidenceRow) -> registry.ModelRow:
    return registry.by_id(session, deposits.get(session, row.deposit_id).model_id)


def reference_name(session: Session, row: EvidenceRow) -> str | None:
    """The reference may be outside the caller's trust domain. It is part of this evidence, which shows its name."""
    return registry.name_of(session, row.reference_id) if row.reference_id else None


def _own_members(session: Session, deposit: DepositRow) -> str | None:
    return None if datasets.get(session, deposit.dataset_id).shredded_at else deposit.dataset_id


def _evaluation_set(session: Session, deposit: DepositRow) -> str | None:
    """The deposit's evaluation set if it is still there, otherwise the model's newest."""
    if deposit.evaluation_set_id and not datasets.get(session, deposit.evaluation_set_id).shredded_at:
        return deposit.evaluation_set_id
    newest = datasets.newest_evaluation_set(session, deposit.model_id)
    return newest.id if newest else None
