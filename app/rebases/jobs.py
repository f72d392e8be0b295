"""Rebases as jobs: what a worker is given, and the one transaction that publishes what it made.

A rebase trains as a deposit of all outstanding deposits' classes does, with a group for each of them, from the original
network. Deposits that wait for a worker go first.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.base.database import now
from app.base.errors import Problem
from app.datasets import service as datasets
from app.datasets.service import Purpose
from app.deposits import groups, scrubbed
from app.deposits import jobs as deposit_jobs
from app.deposits import service as deposits
from app.deposits.groups import MadeDeposit
from app.deposits.jobs import Job, ModuleReplaced, Result, config_of, demand_unchanged
from app.deposits.losses import demand_within
from app.deposits.scrubbed import Replaced
from app.deposits.service import DepositRow, Kind
from app.hardenings import service as hardenings
from app.jobs import checkpoints
from app.jobs.doorbell import REBASE
from app.jobs.machine import WORKER
from app.measurements import service as measurements
from app.measurements.figures import Figures
from app.rebases.tables import RebaseRow, State
from app.registry import policies
from app.registry import service as registry
from app.registry.model_jobs import ModelJobs
from app.registry.service import ModelRow, StoredNetwork
from app.vault.service import Vault
from lirf_core.enumeration import enumerated

MAX_DEPOSITS = 100  # as many as a request for a deposit may have groups


class RebaseNotPossible(Problem):
    """There is no outstanding deposit, a deposit has not ended, single images are deposited, or the original network
    was destroyed, as each purge does. Modules can only be made anew from the original.
    """

    status, slug, title = 409, "rebase-not-possible", "The model cannot be rebased"


class ImagesMissing(Problem):
    """Every class of every outstanding deposit needs images. Upload them as one data set, and name it."""

    status, slug, title = 409, "images-missing", "There are no images of a deposited class"


class ImagesDiffer(Problem):
    """The data set shows classes that no outstanding deposit holds. Upload images of deposited classes only."""

    status, slug, title = 422, "images-differ", "The images show other classes than the deposits hold"


@dataclass(frozen=True, kw_only=True)
class RebaseJob(Job):
    """A claimed rebase: a deposit's job whose `network` is the original. `current`: the target in service."""

    current: StoredNetwork


class RebaseJobs(ModelJobs[RebaseRow, RebaseJob]):
    """A cancelled rebase ends at once: what its worker stores is discarded."""

    row, states, name, task, ends_at_once = RebaseRow, State, "rebase", REBASE, True

    def read(self, session: Session, row: RebaseRow) -> RebaseJob:
        """Raises `RebaseNotPossible`, `Shredded`, and what `demand_images` does."""
        model = registry.by_id(session, row.model_id)
        outstanding = demand_possible(session, model)
        sets = demand_images(session, model, outstanding, row.dataset_id)
        original = registry.revision_if_present(session, model, 0)
        assert original
        of_groups = deposit_jobs.class_indices(session, [one.id for one in outstanding])
        held = registry.deposited(session, model.id)
        return RebaseJob(
            current=registry.stored_network(session, model),
            id=row.id,
            token=row.token,
            attempt=row.attempts,
            is_batch_halved=False,
            kind=Kind.CLASSES,
            model_id=model.id,
            model_name=model.name,
            class_names=model.class_names,
            preprocessing=registry.preprocessing_of(model),
            network=original,
            deposit_sets=[datasets.stored_images(session, dataset_id) for dataset_id in sets],
            evaluation_set_id=row.evaluation_set_id,
            evaluation_set=datasets.stored_images(session, row.evaluation_set_id) if row.evaluation_set_id else None,
            preserved_set=None,
            groups=of_groups,
            preserved=[index for index in range(len(model.class_names)) if index not in held],
            config=config_of(row.config),
            older_modules=[],
            older_classes={},
            replaced_modules=deposit_jobs.stored_modules(session, model.id),
            policy=policies.of(model),
            oldest=None,
            recorded_original=None,
            earlier_loss=0.0,
            earlier_module_losses={},
            checkpoints=checkpoints.of_job(session, row.id),
            curve=row.curve or {},
        )

    def must_wait(self, session: Session) -> bool:
        return deposit_jobs.is_any_ready(session)

    def release(self, session: Session, row: RebaseRow, actor: str) -> list[str]:
        if row.dataset_id is None or row.keeps_dataset:
            return []
        users = deposits.needs_dataset, hardenings.uses_dataset
        is_needed = any(uses(session, row.dataset_id) for uses in users)
        return [] if is_needed else datasets.shred(session, actor, row.dataset_id)

    def ready(self) -> tuple[sa.ColumnElement[bool], ...]:
        """No deposit of the model runs, which would change the modules."""
        return (RebaseRow.model_id.not_in(deposit_jobs.models_with_running()),)

    def publish(self, session: Session, vault: Vault, job: RebaseJob, result: Result, figures: Figures | None) -> None:
        """Put the new target and the new modules into service; the keys of the old modules are destroyed.

        Raises `BeyondBounds`, `ModuleReplaced`, `Cancelled`, `LeaseLost`.
        """
        with vault.discarded_on_error(*result.objects), session.begin():
            model = registry.lock(session, job.model_id)
            policy = policies.of(model)
            row = self.change(session, job, state=State.FINISHED, finished_at=now(), lease_until=None)
            _demand_same(session, model, job)
            demand_unchanged(session, job, policy)
            for made in result.deposits:
                demand_within(made.losses, policy, model.name, job.config, "rebase")
            row.revision, old_rows = registry.publish_revision(
                session, job.model_id, result.target, result.rows, None, {}
            )
            row.deposits = [made.id for made in result.deposits]
            row.progress = {**row.progress, "phase": "finished"}
            garbage = [old_rows, *groups.make_anew(session, result.deposits, row.revision)]
            replaced = scrubbed.put_in_place(session, job.model_id) if job.policy.scrubs_at_once else Replaced([], [])
            garbage += replaced.garbage
            registry.count_replacement(session, job.model_id)
            destroyed, older = policies.destroy_older(session, model)
            followed = self._follow(session, row)
            garbage += older + followed
            self.record(
                session,
                WORKER,
                row,
                "finished",
                reason=row.reason,
                revision=row.revision,
                target_object=result.target.name,
                rows_object=result.rows.name,
                deposits={made.id: _for_audit(job, made) for made in result.deposits},
                scrubbed_modules_of=replaced.deposits,
                destroyed_objects=garbage,
                destroyed_revisions=destroyed,
            )
            if figures:
                measurements.store(session, job.model_id, row.evaluation_set_id, row.revision, figures)
            garbage += checkpoints.delete(session, [job.id])
            # A deposit that went on from an older network would bring back what was deposited before.
            garbage += checkpoints.delete(session, deposits.ids_of_model(job.model_id))
        vault.remove(garbage)

    def _follow(self, session: Session, row: RebaseRow) -> list[str]:
        """What else belongs to a new revision: the hardening of its target. Returns vault names to remove."""
        assert row.deposits
        newest = deposits.get(session, row.deposits[-1])
        images = row.dataset_id or newest.dataset_id
        keeps = row.keeps_dataset or row.dataset_id is None
        garbage, is_needed = hardenings.follow(session, newest, images, row.evaluation_set_id, keeps_dataset=keeps)
        return garbage if is_needed else garbage + self.release(session, row, WORKER)


JOBS = RebaseJobs()


def demand_possible(session: Session, model: ModelRow) -> Sequence[DepositRow]:
    """The outstanding deposits, oldest first. Raises `RebaseNotPossible`."""
    outstanding = deposits.with_modules(session, model.id)
    if not outstanding:
        raise RebaseNotPossible(f"Model '{model.name}' has no outstanding deposit, so there is no module to make anew.")
    if samples := [row.id for row in outstanding if row.kind == Kind.SAMPLES]:
        raise RebaseNotPossible(
            f"Deposits of single images of model '{model.name}' are outstanding: {enumerated(samples, 10)}. They "
            "cannot be made together with others. Purge them first."
        )
    if len(outstanding) > MAX_DEPOSITS:
        raise RebaseNotPossible(
            f"Model '{model.name}' has {len(outstanding)} outstanding deposits; a rebase can make the modules of at "
            f"most {MAX_DEPOSITS} anew."
        )
    if registry.revision_if_present(session, model, 0) is None:
        raise RebaseNotPossible(
            f"The original network of model '{model.name}' was destroyed, by a purge or by the policy. Modules can "
            "only be made anew from it."
        )
    return outstanding


def demand_images(
    session: Session, model: ModelRow, outstanding: Sequence[DepositRow], dataset_id: str | None
) -> list[str]:
    """The data sets that show each class of these deposits, and no other class.

    dataset_id: None: the deposit sets. Raises `ImagesMissing`, `ImagesDiffer`, `UnknownDataset`, `DatasetShredded`.
    """
    names = {name for of_one in deposits.names_of(session, outstanding).values() for name in of_one}
    if dataset_id is None:
        return _kept_sets(session, model, outstanding, names)
    dataset = datasets.get_usable(session, model.id, dataset_id, Purpose.DEPOSIT)
    if missing := sorted(names - dataset.counts.keys()):
        raise ImagesMissing(
            f"Data set '{dataset.id}' has no images of {_quoted(missing)}. Upload images of the classes of every "
            f"outstanding deposit: {_quoted(sorted(names))}."
        )
    if others := sorted(dataset.counts.keys() - names):
        raise ImagesDiffer(
            f"Data set '{dataset.id}' has images of {_quoted(others)}, which no outstanding deposit of model "
            f"'{model.name}' holds. Upload images of {_quoted(sorted(names))} only."
        )
    return [dataset.id]


def _kept_sets(
    session: Session, model: ModelRow, outstanding: Sequence[DepositRow], names: Collection[str]
) -> list[str]:
    shredded = datasets.shredded(session, [row.dataset_id for row in outstanding])
    if missing := [row for row in outstanding if not row.keeps_dataset or row.dataset_id in shredded]:
        without = sorted(name for of_one in deposits.names_of(session, missing).values() for name in of_one)
        raise ImagesMissing(
            f"The images of {_quoted(without)} were not kept when their deposits ended. Upload one data set with "
            f"images of {_quoted(sorted(names))} (`POST /v1/models/{model.name}/datasets?purpose=deposit`), and name "
            "it as `dataset_id`."
        )
    return list(dict.fromkeys(row.dataset_id for row in outstanding))


def _quoted(names: Collection[str]) -> str:
    return enumerated([f"'{name}'" for name in names])


def _demand_same(session: Session, model: ModelRow, job: Job) -> None:
    """The deposits are those that the job was claimed with, and each module still is. Raises `ModuleReplaced`."""
    now_stored = {one.deposit_id: one.stored.id for one in deposit_jobs.stored_modules(session, model.id)}
    if now_stored != {one.deposit_id: one.stored.id for one in job.replaced_modules}:
        raise ModuleReplaced("A deposit or a purge has changed the model's modules meanwhile.")
    if registry.revision_if_present(session, model, 0) is None:
        raise ModuleReplaced("The original network was destroyed meanwhile.")


def _for_audit(job: Job, made: MadeDeposit) -> dict[str, Any]:
    """Of a deposit whose module was made anew. What has an entry for each other deposit stays in the deposit's row."""
    of_target, of_recover = (
        made.metrics and {name: value for name, value in made.metrics[network].items() if name != "by_class"}
        for network in ("target", "recover")
    )
    return {
        "classes": job.names(made.classes),
        "module_object": made.module.name,
        "scrubbed_object": made.scrubbed.stored.name if made.scrubbed else None,
        "metrics": {"target": of_target, "recover": of_recover},
    }
