"""Deposits as jobs: what a worker is given, and the one transaction that publishes what it made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.base.database import now
from app.datasets import service as datasets
from app.deposits import groups, scrubbed
from app.deposits.groups import MadeDeposit
from app.deposits.losses import counted, demand_within
from app.deposits.scrubbed import Replaced, ScrubbedModule
from app.deposits.tables import DepositClassRow, DepositRow, Kind, State
from app.jobs import checkpoints
from app.jobs.doorbell import DEPOSIT
from app.jobs.machine import WORKER, Claim
from app.registry import policies
from app.registry import service as registry
from app.registry.model_jobs import ModelJobs
from app.registry.policies import Policy
from app.registry.service import StoredNetwork
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault
from lirf_core.config import DepositConfig
from lirf_core.images.preprocessing import Augmentation, Preprocessing

TARGET = "target"  # the part of a job that trains target and module; each scrub is one, by its deposit's id


class ModuleReplaced(RuntimeError):
    """A purge, a rebase or a change of the policy has replaced an older module since the deposit was claimed."""


@dataclass(frozen=True)
class OlderModule:
    """The deposit module of an earlier deposit of the model, in the vault.

    scrubbed: the module that waits to replace it, without the classes of later deposits.
    """

    deposit_id: str
    stored: StoredObject
    scrubbed: StoredObject | None = None


@dataclass(frozen=True, kw_only=True)
class Job(Claim):
    """A claimed deposit: everything the work needs, read in the claiming transaction.

    `groups`: the classes of each deposit that it makes, by the deposit's id; its own first.
    `older_modules` must forget the deposited classes, too: they were made when the model knew them. `replaced_modules`
    are those of the `groups`, if the job makes these deposits' modules anew: a rebase. `oldest` is the
    oldest network that still exists, None if the deposit starts from it. Unless it is revision 0, `recorded_original`
    is what an earlier deposit measured of that on this evaluation set (percent by class), if any did. `earlier_loss`:
    points that all deposits before this one have cost the preserved classes; `earlier_module_losses`: the classes of
    each older module, by its deposit's id. `checkpoints` (by the part of the work) and the `curve` of losses come from
    earlier attempts.
    """

    is_batch_halved: bool
    kind: Kind
    model_id: str
    model_name: str
    class_names: list[str]
    preprocessing: Preprocessing
    network: StoredNetwork
    evaluation_set_id: str | None
    deposit_sets: Sequence[StoredObject]
    evaluation_set: StoredObject | None
    preserved_set: StoredObject | None
    groups: dict[str, list[int]]
    preserved: list[int]
    older_classes: dict[str, list[int]]
    config: DepositConfig
    older_modules: list[OlderModule]
    replaced_modules: list[OlderModule]
    policy: Policy
    oldest: StoredNetwork | None
    recorded_original: dict[str, float | None] | None
    earlier_loss: float
    earlier_module_losses: dict[str, float]
    checkpoints: dict[str, StoredObject]
    curve: dict[str, list[float]]

    @property
    def deposited(self) -> list[int]:
        """The classes of all groups, in ascending order."""
        return sorted(index for classes in self.groups.values() for index in classes)

    @property
    def is_of_samples(self) -> bool:
        """Whether only single images of the classes `deposited` are forgotten."""
        return self.kind == Kind.SAMPLES

    @property
    def forgotten(self) -> list[int]:
        """The classes that the target no longer answers."""
        return [] if self.is_of_samples else self.deposited

    @property
    def answered(self) -> list[int]:
        """The classes that the target answers, in ascending order."""
        return sorted({*self.preserved, *self.deposited} - set(self.forgotten))

    def names(self, classes: Sequence[int]) -> list[str]:
        """Of these class indices."""
        return [self.class_names[index] for index in classes]


@dataclass(frozen=True)
class Result:
    """What a worker made of a job; every object was read back from the vault.

    `rows` are the last layer's that the target keeps; those of the deposited classes are in the modules. `deposits`:
    one for each of the job's `groups`, in their order. `scrubbed`: what the job's `older_modules` become, now or once
    the deposits are purged.
    """

    target: StoredObject
    rows: StoredObject
    deposits: Sequence[MadeDeposit]
    scrubbed: Sequence[ScrubbedModule]

    @property
    def objects(self) -> list[StoredObject]:
        """All that it has in the vault."""
        waiting = [*self.scrubbed, *(one.scrubbed for one in self.deposits if one.scrubbed)]
        return [self.target, self.rows, *(one.module for one in self.deposits), *(one.stored for one in waiting)]


class DepositJobs(ModelJobs[DepositRow, Job]):
    """One deposit of a model runs at a time: a unique index refuses a second claim."""

    row, states, name, task = DepositRow, State, "deposit", DEPOSIT

    def read(self, session: Session, row: DepositRow) -> Job:
        model = registry.by_id(session, row.model_id)
        of_groups = groups.planned(session, row)
        gone = {*registry.deposited(session, model.id), *(index for of_one in of_groups.values() for index in of_one)}
        older_modules = stored_modules(session, model.id)
        network = registry.stored_network(session, model)
        oldest = registry.oldest_revision(session, model)
        is_original_there = (oldest or network).revision == 0
        return Job(
            id=row.id,
            token=row.token,
            attempt=row.attempts,
            is_batch_halved=row.is_batch_halved,
            kind=Kind(row.kind),
            model_id=model.id,
            model_name=model.name,
            class_names=model.class_names,
            preprocessing=registry.preprocessing_of(model),
            network=network,
            deposit_sets=[datasets.stored_images(session, row.dataset_id)],
            evaluation_set=datasets.stored_images(session, row.evaluation_set_id) if row.evaluation_set_id else None,
            preserved_set=datasets.stored_images(session, row.preserved_set_id) if row.preserved_set_id else None,
            groups=of_groups,
            preserved=[i for i in range(len(model.class_names)) if i not in gone],
            config=config_of(row.config),
            older_modules=older_modules,
            replaced_modules=[],
            older_classes=class_indices(session, [older.deposit_id for older in older_modules]),
            policy=policies.of(model),
            oldest=oldest,
            recorded_original=None if is_original_there else _recorded_original(session, row),
            earlier_loss=total_loss(session, model.id),
            earlier_module_losses=_module_losses(session, model.id),
            evaluation_set_id=row.evaluation_set_id,
            checkpoints=checkpoints.of_job(session, row.id),
            curve=row.curve or {},
        )

    def ready(self) -> tuple[sa.ColumnElement[bool], ...]:
        return (DepositRow.model_id.not_in(models_with_running()),)

    def release(self, session: Session, row: DepositRow, actor: str) -> list[str]:
        ended = [] if row.keeps_dataset else [row.dataset_id]
        if row.preserved_set_id and not row.keeps_preserved_set:
            ended.append(row.preserved_set_id)
        return [name for dataset_id in ended for name in datasets.shred(session, actor, dataset_id)]

    def may_keep(self, session: Session, job: Job, part: str) -> bool:
        """Not of a module that was purged meanwhile, nor once a rebase has replaced the network that it comes from."""
        if registry.lock(session, job.model_id).revision != job.network.revision:
            return False
        own = TARGET, *job.groups
        return part in own or session.get_one(DepositRow, part).state == State.DEPOSITED

    def publish(
        self,
        session: Session,
        vault: Vault,
        job: Job,
        result: Result,
        follow: Callable[[Session, DepositRow], tuple[list[str], bool]] = lambda *_: ([], False),
    ) -> None:
        """The one transaction that makes the job's deposits true. Raises `BeyondBounds`, `Cancelled`, `LeaseLost`.

        The key of the rows until now is shredded, and those of older modules and networks if the model's policy says
        so. follow: what else belongs into the transaction. It returns vault names to remove afterwards, and
        whether something still needs the deposit set.
        """
        with vault.discarded_on_error(*result.objects), session.begin():
            model = registry.lock(session, job.model_id)
            row = self.change(session, job, state=State.DEPOSITED, finished_at=now(), lease_until=None)
            demand_unchanged(session, job, policies.of(model))
            for made in result.deposits:
                demand_within(made.losses, policies.of(model), model.name, job.config)
            row.progress = {**row.progress, "phase": "finished"}
            rows = groups.split(session, row, result.deposits)
            held = {one.id: one.classes for one in result.deposits} if job.forgotten else {}
            revision, old_rows = registry.publish_revision(
                session, job.model_id, result.target, result.rows, job.id, held
            )
            for one in rows:
                one.revision = revision
            session.flush()
            destroyed, garbage = policies.destroy_older(session, model)
            garbage += [name for module in result.scrubbed for name in self._keep_scrubbed(session, job, module)]
            for made in result.deposits:
                garbage += self._keep_scrubbed(session, job, made.scrubbed) if made.scrubbed else []
            replaced = scrubbed.put_in_place(session, job.model_id) if job.policy.scrubs_at_once else Replaced([], [])
            for one, made in zip(rows, result.deposits, strict=True):
                self.record(
                    session,
                    WORKER,
                    one,
                    "finished",
                    reason=row.reason,
                    classes=job.names(made.classes),
                    revision=revision,
                    target_object=result.target.name,
                    rows_object=result.rows.name,
                    module_object=made.module.name,
                    metrics=made.metrics,
                    losses=made.losses.as_json(),
                    destroyed_revisions=destroyed,
                    scrubbed_modules_of=replaced.deposits,
                    **({"made_with": row.id} if one is not row else {}),
                )
            followed, is_set_needed = follow(session, row)
            garbage += [old_rows, *followed, *([] if is_set_needed else self.release(session, row, WORKER))]
            garbage += replaced.garbage
            # A deposit that went on from an older network would bring back what was deposited since.
            of_model = sa.select(DepositRow.id).where(DepositRow.model_id == job.model_id)
            garbage += checkpoints.delete(session, of_model)
        vault.remove(garbage)

    def _keep_scrubbed(self, session: Session, job: Job, module: ScrubbedModule) -> list[str]:
        """Returns the vault names to remove, also this module's if the deposit was purged meanwhile."""
        row = self._current(session, module.deposit_id)
        if row.state != State.DEPOSITED:
            return [module.stored.name]
        garbage = scrubbed.keep(session, row, module)
        details = {
            "of_classes": job.names(sorted({*job.deposited} - {*job.groups.get(row.id, [])})),
            "for_deposit": job.id,
            "module_object": module.stored.name,
            "loss": module.loss,
        }
        audit.record(session, WORKER, "module.scrubbed", model=job.model_name, subject=row.id, details=details)
        return garbage

    def retry_with_half_the_batch(self, session: Session, vault: Vault, job: Job) -> None:
        """Queue the job once more with half the batch if the device has too little memory; then fail it with advice.

        Raises `Cancelled`, `LeaseLost`.
        """
        config = job.config
        halved = {"batch_size": max(2, config.batch_size // 2), "proxy_batch": max(1, config.proxy_batch // 2)}
        if job.is_batch_halved or halved == {name: getattr(config, name) for name in halved}:
            reason = (
                f"The device has too little memory for a batch_size of {config.batch_size}. Ask for a smaller "
                "batch_size and proxy_batch, or give the worker a device with more memory."
            )
            self.fail(session, vault, job, reason)
            return
        trouble = f"Out of memory. Next attempt with a batch_size of {halved['batch_size']}."
        with session.begin():
            values = session.get_one(DepositRow, job.id).config | halved
        self.requeue(session, vault, job, trouble, attempts=job.attempt - 1, config=values, is_batch_halved=True)


JOBS = DepositJobs()


def models_with_running() -> sa.Select[str]:
    """A query for the ids of the models of which a deposit is running."""
    return sa.select(DepositRow.model_id).where(DepositRow.state == State.RUNNING)


def config_of(stored: dict[str, Any]) -> DepositConfig:
    """The stored settings as lirf_core's."""
    return DepositConfig(**{**stored, "augmentation": Augmentation(**stored["augmentation"])})


def stored_modules(session: Session, model_id: str) -> list[OlderModule]:
    """The modules of the model's finished deposits, oldest first."""
    is_stored = (
        DepositRow.model_id == model_id,
        DepositRow.state == State.DEPOSITED,
        DepositRow.module_object_id.is_not(None),
    )
    columns = DepositRow.id, DepositRow.module_object_id, DepositRow.scrubbed_object_id
    rows = session.execute(sa.select(*columns).where(*is_stored).order_by(DepositRow.revision, DepositRow.id)).all()
    objects = vaults.stored_objects(session, [one for _, *ids in rows for one in ids if one])
    return [OlderModule(one, objects[own], objects[waiting] if waiting else None) for one, own, waiting in rows if own]


def _recorded_original(session: Session, row: DepositRow) -> dict[str, float | None] | None:
    """What the newest published deposit measured of the original network on this deposit's evaluation set."""
    if row.evaluation_set_id is None:
        return None
    same_set = DepositRow.model_id == row.model_id, DepositRow.evaluation_set_id == row.evaluation_set_id
    # The figures of a rebase may be of another set.
    metrics = _newest_published(session, DepositRow.metrics, *same_set, DepositRow.module_revision.is_(None))
    return metrics["original"]["by_class"] if metrics and metrics["original"] else None


def total_loss(session: Session, model_id: str) -> float:
    """Points that the preserved classes have lost since the original network, as the newest deposit measured it."""
    losses = _newest_published(session, DepositRow.losses, DepositRow.model_id == model_id)
    return max((losses or {}).get("total") or 0.0, 0.0)


def _module_losses(session: Session, model_id: str) -> dict[str, float]:
    """Points that the classes of each module have lost, by the job that made it, each later one, and replacements."""
    published = DepositRow.model_id == model_id, DepositRow.revision.is_not(None), DepositRow.losses.is_not(None)
    rebased_at = session.scalar(sa.select(sa.func.max(DepositRow.module_revision)).where(*published)) or 0
    lost: dict[str, float] = {}
    columns = DepositRow.id, DepositRow.losses, DepositRow.replaced_loss
    since = sa.select(*columns).where(
        *published, DepositRow.made_at_revision >= rebased_at
    )  # a rebase made good what was lost before
    for deposit_id, losses, replaced in session.execute(since):
        lost[deposit_id] = lost.get(deposit_id, 0.0) + replaced
        for module, of_module in {deposit_id: losses.get("recovered", []), **losses["modules"]}.items():
            lost[module] = lost.get(module, 0.0) + max(map(counted, of_module), default=0.0)
    return lost


def _newest_published(session: Session, column: Any, *which: sa.ColumnElement[bool]) -> dict[str, Any] | None:
    published = sa.select(column).where(DepositRow.revision.is_not(None), *which)
    return session.scalar(published.order_by(DepositRow.made_at_revision.desc(), DepositRow.id).limit(1))


def has_module(session: Session, older: OlderModule) -> bool:
    """Whether the older deposit still has its module. Raises `ModuleReplaced`."""
    with session.begin():
        return older.deposit_id in _still_stored(session, [older])


def demand_unchanged(session: Session, job: Job, policy: Policy) -> None:
    """What was trained and measured is of the modules in use. Raises `ModuleReplaced`."""
    if policy.scrubs_at_once and not job.policy.scrubs_at_once:
        raise ModuleReplaced("By the model's policy, scrubbed modules now take their place at once.")
    _still_stored(session, job.older_modules)


def _still_stored(session: Session, modules: Sequence[OlderModule]) -> set[str]:
    """The deposits of these modules that were not purged. Raises `ModuleReplaced` if one has another module by now."""
    is_stored = DepositRow.id.in_([one.deposit_id for one in modules]), DepositRow.state == State.DEPOSITED
    stored = dict(session.execute(sa.select(DepositRow.id, DepositRow.module_object_id).where(*is_stored)).all())
    for one in modules:
        if stored.get(one.deposit_id, one.stored.id) != one.stored.id:
            raise ModuleReplaced(
                f"The module of deposit '{one.deposit_id}' was replaced by its scrubbed one or a rebase's."
            )
    return set(stored)


def has_revision(session: Session, model_id: str, number: int) -> bool:
    """Whether an older network of the model still exists."""
    with session.begin():
        return registry.revision_if_present(session, registry.by_id(session, model_id), number) is not None


def class_indices(session: Session, deposit_ids: Sequence[str]) -> dict[str, list[int]]:
    """The classes of each deposit, in the order of the model's outputs, by its id."""
    indices: dict[str, list[int]] = {deposit_id: [] for deposit_id in deposit_ids}
    query = sa.select(DepositClassRow).where(DepositClassRow.deposit_id.in_(deposit_ids))
    for row in session.scalars(query.order_by(DepositClassRow.class_index)):
        indices[row.deposit_id].append(row.class_index)
    return indices


def next_waiting(session: Session, job: Job) -> str | None:
    """The oldest other queued deposit of the job's model."""
    is_queued = DepositRow.model_id == job.model_id, DepositRow.state == State.QUEUED, DepositRow.id != job.id
    return session.scalar(sa.select(DepositRow.id).where(*is_queued).order_by(DepositRow.id).limit(1))


def is_any_ready(session: Session) -> bool:
    """Whether a deposit could be claimed: it is queued, and no deposit of its model is running."""
    return JOBS.oldest_ready(session) is not None
