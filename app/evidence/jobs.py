"""Examinations as jobs: what a worker is given, and what becomes of its evidence.

An examination changes nothing of a model and stores no object. Deposits that wait for a worker go first.
"""

from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.base.database import now
from app.datasets import service as datasets
from app.deposits import jobs as deposit_jobs
from app.deposits import service as deposits
from app.evidence.digests import digest
from app.evidence.tables import UNFINISHED, EvidenceRow, State
from app.hardenings import service as hardenings
from app.hardenings.jobs import HardenedNetwork
from app.jobs import checkpoints
from app.jobs.doorbell import EXAMINE
from app.jobs.machine import WORKER, Claim, JobMachine
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault
from lirf_core.architectures import ArchitectureSpec
from lirf_core.evidence.attacks.config import Strength
from lirf_core.evidence.membership import Attack
from lirf_core.images.preprocessing import Augmentation, Preprocessing

MAX_RESTARTS = 10  # each because a deposit or a purge replaced what was examined


class Destroyed(Exception):
    """A network or a data set under examination was purged, destroyed, replaced or discarded meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Job(Claim):
    """A claimed examination: everything the work needs, read in the claiming transaction.

    `original` is revision 0, None if it was destroyed. `before` is the revision that the deposit started from, None if
    that is the original or was destroyed. `served` is the hardened network if that answers in place of the target.
    `module` is None if it was purged. `membership` is what was measured when the deposit was made. `modules` are those
    of all deposits of the model, and `reference_modules` of the reference's model: their rows are put back into the
    networks, so that nothing is hidden by rows that are not there. `reference_set` has images to train a reference
    from, which is `trained_reference` once that is done. `checkpoints` (by the part of the work) come from earlier
    attempts.
    """

    restarts: int
    attackers: Strength
    deposit_id: str
    deposit_revision: int
    class_names: list[str]
    deposited: list[int]
    preserved: list[int]
    preprocessing: Preprocessing
    augmentation: Augmentation
    spec: ArchitectureSpec
    target: StoredNetwork
    served: HardenedNetwork | None
    original: StoredNetwork | None
    before: StoredNetwork | None
    module: StoredObject | None
    modules: list[StoredObject]
    reference: StoredNetwork | None
    reference_modules: list[StoredObject]
    model_id: str
    reference_set: StoredObject | None
    trained_reference: StoredObject | None
    checkpoints: dict[str, StoredObject]
    curve: dict[str, list[float]]
    evaluation_set: StoredObject
    members: StoredObject | None
    are_members_its_own: bool
    membership: dict[str, Attack]

    @property
    def examined(self) -> dict[str, str]:
        """The vault names of everything that is examined, by what it is."""
        networks = {
            "target": self.target,
            "original": self.original,
            "before": self.before,
            "reference": self.reference,
        }
        objects = {name: network.lower for name, network in networks.items() if network}
        objects |= {"upper": self.target.upper} | ({"rows": self.target.rows} if self.target.rows else {})
        if self.reference:
            objects |= {"reference_upper": self.reference.upper}
            objects |= {"reference_rows": self.reference.rows} if self.reference.rows else {}
        objects |= {"served": self.served.stored} if self.served else {}
        objects |= {"module": self.module} if self.module else {}
        members = "deposit_set" if self.are_members_its_own else "shown_as_members"
        objects |= {members: self.members} if self.members else {}
        objects |= {"trained_reference": self.trained_reference} if self.trained_reference else {}
        objects["evaluation_set"] = self.evaluation_set
        return {name: stored.name for name, stored in objects.items()}

    @property
    def object_names(self) -> set[str]:
        """The vault names of everything that is opened."""
        others = [*self.modules, *self.reference_modules]
        others += [self.reference_set] if self.reference_set else []
        return {*self.examined.values(), *(stored.name for stored in others)}

    @property
    def network(self) -> dict[str, Any]:
        """Architecture, split and number of classes, as the audit has them."""
        return {
            "architecture": self.spec.name,
            "split": self.target.belonging.split,
            "classes": len(self.class_names),
        }


class ExaminationJobs(JobMachine[EvidenceRow, Job]):
    """A cancelled examination ends at once: it stores nothing that would have to be cleared away."""

    row, states, name, task, ends_at_once = EvidenceRow, State, "evidence", EXAMINE, True

    def read(self, session: Session, row: EvidenceRow) -> Job:
        """Raises `Shredded` or `ModulePurged` if what it needs is gone."""
        deposit = deposits.get(session, row.deposit_id)
        model = registry.by_id(session, deposit.model_id)
        assert deposit.revision is not None
        target = registry.stored_network(session, model)
        reference = registry.by_id(session, row.reference_id) if row.reference_id else None
        held = set(registry.deposited(session, model.id))
        row.revision = target.revision
        membership = (deposit.metrics or {}).get("membership") or {}
        return Job(
            id=row.id,
            token=row.token,
            attempt=row.attempts,
            restarts=row.restarts,
            attackers="full" if row.attackers == "full" else "small",
            deposit_id=deposit.id,
            deposit_revision=deposit.made_at_revision or deposit.revision,
            class_names=model.class_names,
            deposited=deposit_jobs.class_indices(session, [deposit.id])[deposit.id],
            preserved=[index for index in range(len(model.class_names)) if index not in held],
            preprocessing=registry.preprocessing_of(model),
            augmentation=deposit_jobs.config_of(deposit.config).augmentation,
            spec=registry.spec_of(model),
            target=target,
            served=hardenings.served(session, model),
            original=registry.revision_if_present(session, model, 0),
            before=registry.revision_if_present(session, model, deposit.revision - 1) if deposit.revision > 1 else None,
            module=None if deposit.purged_at else deposits.module(session, deposit),
            modules=[module.stored for module in deposit_jobs.stored_modules(session, model.id)],
            reference=registry.stored_network(session, reference) if reference else None,
            reference_modules=[
                module.stored for module in (deposit_jobs.stored_modules(session, reference.id) if reference else [])
            ],
            model_id=model.id,
            reference_set=_reference_set(session, row),
            trained_reference=vaults.stored_object(session, row.reference_object_id)
            if row.reference_object_id
            else None,
            checkpoints=checkpoints.of_job(session, row.id),
            curve={},
            evaluation_set=datasets.stored_images(session, row.evaluation_set_id),
            members=datasets.stored_images_if_present(session, row.members_id) if row.members_id else None,
            are_members_its_own=row.members_id == deposit.dataset_id,
            membership={network: Attack(**attack) for network, attack in membership.items()},
        )

    def model_name(self, session: Session, row: EvidenceRow) -> str:
        return registry.by_id(session, deposits.get(session, row.deposit_id).model_id).name

    def details(self, row: EvidenceRow) -> dict[str, Any]:
        return {"deposit": row.deposit_id}

    def lock(self, session: Session, job_id: str) -> None:
        """Of the model: nothing is purged or published between two reads."""
        if row := session.get(EvidenceRow, job_id):
            deposits.locked(session, row.deposit_id)

    def release(self, session: Session, row: EvidenceRow, actor: str) -> list[str]:
        """Shred the images of a reference, unless they are kept or another examination needs them."""
        if row.reference_set_id is None or row.keeps_reference_set or uses_dataset(session, row.reference_set_id):
            return []
        return datasets.shred(session, actor, row.reference_set_id)

    def keep_reference(self, session: Session, vault: Vault, job: Job, trained: StoredObject) -> Job:
        """Keep the reference that was trained; its checkpoint goes. Returns the job with it.

        Raises `Cancelled`, `LeaseLost`, `Destroyed`.
        """
        with vault.discarded_on_error(trained), session.begin():
            deposits.locked(session, job.deposit_id)
            self.check(session, job)
            row = self.change(session, job, reference_object_id=vaults.record(session, trained))
            garbage = checkpoints.delete(session, [job.id])
            counts = datasets.get(session, row.reference_set_id or "").counts
            self.record(
                session,
                WORKER,
                row,
                "reference_trained",
                dataset=row.reference_set_id,
                counts=counts,
                object=trained.name,
            )
        vault.remove(garbage)
        return replace(job, trained_reference=trained, reference_set=None, checkpoints={})

    def ready(self) -> tuple[sa.ColumnElement[bool], ...]:
        """What serves is examined, so a hardening that has not ended comes first."""
        changing = deposits.ids_of_models(hardenings.models_with_unfinished())
        return (EvidenceRow.deposit_id.not_in(changing),)

    def must_wait(self, session: Session) -> bool:
        return deposit_jobs.is_any_ready(session)

    def check(self, session: Session, job: Job) -> None:
        """Raises `Destroyed`."""
        if _is_destroyed(session, job):
            raise Destroyed(f"Something that evidence {job.id} examines was destroyed meanwhile.")

    def is_destroyed(self, session: Session, job: Job) -> bool:
        """Whether something under examination was purged, destroyed, replaced or discarded meanwhile."""
        with session.begin():
            return _is_destroyed(session, job)

    def finish(self, session: Session, vault: Vault, job: Job, evidence: dict[str, Any]) -> None:
        """Keep the evidence; the audit keeps its digest. Raises `Cancelled`, `LeaseLost`, `Destroyed`."""
        with session.begin():
            deposits.locked(session, job.deposit_id)
            self.check(session, job)
            row = self.change(session, job, state=State.FINISHED, finished_at=now(), lease_until=None, found=evidence)
            self.record(
                session,
                WORKER,
                row,
                "finished",
                revision=job.target.revision,
                digest=digest(evidence),
                examined=job.examined,
                network=job.network,
                reference=registry.by_id(session, row.reference_id).name if row.reference_id else None,
                **_told_of_reference_set(session, row),
            )
            garbage = self.released(session, row, WORKER)
        vault.remove(garbage)

    def begin_again(self, session: Session, vault: Vault, job: Job) -> None:
        """Queue the examination of what is left, `MAX_RESTARTS` times at most. Raises `Cancelled`, `LeaseLost`."""
        if job.restarts >= MAX_RESTARTS:
            reason = "What it examines was replaced or destroyed too often. Request it once nothing is being deposited."
            self.fail(session, vault, job, reason)
            return
        trouble = "What it examines was replaced or destroyed."
        self.requeue(session, vault, job, trouble, attempts=job.attempt - 1, restarts=job.restarts + 1)


JOBS = ExaminationJobs()


def uses_dataset(session: Session, dataset_id: str) -> bool:
    """Whether an unfinished examination still trains a reference from this data set."""
    unfinished = EvidenceRow.reference_set_id == dataset_id, EvidenceRow.state.in_(UNFINISHED)
    query = sa.select(EvidenceRow.id).where(*unfinished, EvidenceRow.reference_object_id.is_(None))
    return session.scalar(query.limit(1)) is not None


def _told_of_reference_set(session: Session, row: EvidenceRow) -> dict[str, Any]:
    """What the audit says of the images that a reference was trained from; nothing if there are none."""
    if row.reference_set_id is None:
        return {}
    counts = datasets.get(session, row.reference_set_id).counts
    images = {"id": row.reference_set_id, "images": sum(counts.values()), "classes": len(counts)}
    return {"reference_set": images}


def _reference_set(session: Session, row: EvidenceRow) -> StoredObject | None:
    """The images that a reference is still to be trained from. Raises `Shredded` if they are gone."""
    if row.reference_set_id is None or row.reference_object_id:
        return None
    return datasets.stored_images(session, row.reference_set_id)


def _is_destroyed(session: Session, job: Job) -> bool:
    return bool(vaults.shredded_names(session, job.object_names))
