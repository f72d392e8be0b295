"""Hardenings as jobs: what a worker is given, and the one transaction that publishes a hardened network.

Deposits that wait for a worker go first. A hardening changes neither the working target nor a module.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.base.database import now
from app.base.errors import Problem
from app.datasets import service as datasets
from app.deposits import jobs as deposit_jobs
from app.deposits import service as deposits
from app.deposits.losses import Losses, preserved_faults
from app.hardenings.tables import HardeningRow, State
from app.jobs import checkpoints
from app.jobs.doorbell import HARDEN
from app.jobs.machine import WORKER, Claim
from app.registry import policies
from app.registry import service as registry
from app.registry.model_jobs import ModelJobs
from app.registry.policies import Policy
from app.registry.service import StoredNetwork
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault
from lirf_core.belonging import Belonging
from lirf_core.config import HardeningConfig
from lirf_core.images.preprocessing import Augmentation, Preprocessing

if TYPE_CHECKING:
    from lirf_core.network import SplitNetwork


class RevisionReplaced(Problem):
    """A later deposit or rebase has replaced the revision that was to be hardened. Harden the new one."""

    status, slug, title = 409, "revision-replaced", "The revision is no longer in service"


@dataclass(frozen=True)
class HardenedNetwork:
    """A hardened network in the vault. belonging: of the target that it was made from."""

    stored: StoredObject
    belonging: Belonging
    revision: int

    @property
    def object_names(self) -> list[str]:
        """The names of its objects in the vault."""
        return [self.stored.name]

    def open(self, vault: Vault) -> "SplitNetwork":
        """The network, which has no deposited rows, frozen. Raises `VaultDamaged`, `DoesNotFit`, `ForeignUpperPart`."""
        from lirf_core import artifacts  # imports torch, which processes that only read rows do not need

        return artifacts.load_hardened(vault.read(self.stored), self.belonging)


ServedNetwork = StoredNetwork | HardenedNetwork


@dataclass(frozen=True, kw_only=True)
class Job(Claim):
    """A claimed hardening: everything the work needs, read in the claiming transaction.

    `earlier_loss`: points that the preserved classes have lost by all deposits. `checkpoints` (by the part of the work)
    and the `curve` of losses come from earlier attempts.
    """

    model_id: str
    model_name: str
    class_names: list[str]
    preprocessing: Preprocessing
    target: StoredNetwork
    preserved: list[int]
    transfer_set: StoredObject
    preserved_set: StoredObject | None
    evaluation_set: StoredObject | None
    config: HardeningConfig
    policy: Policy
    earlier_loss: float
    checkpoints: dict[str, StoredObject]
    curve: dict[str, list[float]]


class HardeningJobs(ModelJobs[HardeningRow, Job]):
    """A cancelled hardening ends at once: what its worker stores is discarded."""

    row, states, name, task, ends_at_once = HardeningRow, State, "hardening", HARDEN, True

    def read(self, session: Session, row: HardeningRow) -> Job:
        """Raises `RevisionReplaced`, `Shredded`."""
        model = registry.by_id(session, row.model_id)
        if model.revision != row.revision:
            raise RevisionReplaced(
                f"Model '{model.name}' is at revision {model.revision}, no longer at {row.revision}."
            )
        held = registry.deposited(session, model.id)
        return Job(
            id=row.id,
            token=row.token,
            attempt=row.attempts,
            model_id=model.id,
            model_name=model.name,
            class_names=model.class_names,
            preprocessing=registry.preprocessing_of(model),
            target=registry.stored_network(session, model),
            preserved=[index for index in range(len(model.class_names)) if index not in held],
            transfer_set=datasets.stored_images(session, row.dataset_id),
            preserved_set=_preserved_set(session, row),
            evaluation_set=_evaluation_set(session, row),
            config=config_of(row.config),
            policy=policies.of(model),
            earlier_loss=deposit_jobs.total_loss(session, model.id),
            checkpoints=checkpoints.of_job(session, row.id),
            curve=row.curve or {},
        )

    def details(self, row: HardeningRow) -> dict[str, Any]:
        return {"revision": row.revision}

    def must_wait(self, session: Session) -> bool:
        return deposit_jobs.is_any_ready(session)

    def release(self, session: Session, row: HardeningRow, actor: str) -> list[str]:
        deposit = deposits.get(session, row.deposit_id)
        ended = [] if row.keeps_dataset else [row.dataset_id]
        if deposit.preserved_set_id and not deposit.keeps_preserved_set:
            ended.append(deposit.preserved_set_id)
        unused = [dataset_id for dataset_id in ended if not deposits.uses_dataset(session, dataset_id)]
        return [name for dataset_id in unused for name in datasets.shred(session, actor, dataset_id)]

    def publish(self, session: Session, vault: Vault, job: Job, hardened: StoredObject, losses: Losses) -> None:
        """Put the hardened network into service, if it is within the model's bounds. Otherwise the job has failed.

        hardened: read back from the vault. Raises `Cancelled`, `LeaseLost`.
        """
        with vault.discarded_on_error(hardened), session.begin():
            model = registry.lock(session, job.model_id)
            policy, found = policies.of(model), losses.as_json()
            faults = list(preserved_faults(losses, policy, "hardening"))
            ended: dict[str, Any] = {"finished_at": now(), "lease_until": None, "losses": found}
            if faults:
                failure = (
                    "The hardened network is beyond the model's bounds, so the working target stays in service. "
                    f"{' '.join(faults)} {ADVICE} An administrator can change the bounds with `lirf policy "
                    f"{model.name}`."
                )
                row = self.change(session, job, state=State.FAILED, failure=failure, **ended)
                self.record(session, WORKER, row, "failed", failure=failure, losses=found)
                garbage = [hardened.name]
            else:
                row = self.change(session, job, state=State.FINISHED, **ended)
                assert model.revision == row.revision  # a later deposit would have ended this job
                garbage = shred_hardened(session, model.id)
                row.object_id = vaults.record(session, hardened)
                row.progress = {**row.progress, "phase": "finished"}
                session.flush()
                if policy.hardening == "served":
                    registry.bump_generation(session, model.id)
                self.record(session, WORKER, row, "finished", hardened_object=hardened.name, losses=found)
            garbage += self.released(session, row, WORKER)
        vault.remove(garbage)


ADVICE = "Try fewer or more epochs, less noise, or more images."
JOBS = HardeningJobs()


def shred_hardened(session: Session, model_id: str) -> list[str]:
    """In the caller's transaction: destroy the keys of every hardened network of a model.

    Returns the vault names to remove after it.
    """
    is_present = HardeningRow.model_id == model_id, HardeningRow.object_id.is_not(None)
    garbage = []
    for row in session.scalars(sa.select(HardeningRow).where(*is_present, HardeningRow.shredded_at.is_(None))).all():
        assert row.object_id is not None
        garbage.append(vaults.shred(session, row.object_id))
        row.shredded_at = now()
    session.flush()
    return garbage


def config_of(stored: dict[str, Any]) -> HardeningConfig:
    """The stored settings as lirf_core's."""
    return HardeningConfig(**{**stored, "augmentation": Augmentation(**stored["augmentation"])})


def _preserved_set(session: Session, row: HardeningRow) -> StoredObject | None:
    """That of the deposit, if it had one that is still there."""
    dataset_id = deposits.get(session, row.deposit_id).preserved_set_id
    return datasets.stored_images_if_present(session, dataset_id) if dataset_id else None


def _evaluation_set(session: Session, row: HardeningRow) -> StoredObject | None:
    return datasets.stored_images_if_present(session, row.evaluation_set_id) if row.evaluation_set_id else None
