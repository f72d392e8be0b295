"""A deposit, step by step: train it, store it, read it back, scrub older modules, measure, publish."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from opentelemetry import trace
from sqlalchemy.orm import Session

from app.deposits import jobs, separation
from app.deposits.groups import MadeDeposit
from app.deposits.jobs import JOBS, TARGET, Job, ModuleReplaced, OlderModule, Result
from app.deposits.scrubbed import ScrubbedModule
from app.deposits.service import DepositRow
from app.evidence import service as evidence
from app.evidence.jobs import JOBS as EXAMINATIONS
from app.hardenings import service as hardenings
from app.measurements import service as measurements
from app.measurements.figures import Figures
from app.vault import erasure
from app.vault.service import Binding, Kind, StoredObject, VaultDamaged
from lirf_core import artifacts
from lirf_core import class_rows as rows
from lirf_core.class_rows import Rows
from lirf_core.compute import OutOfMemory
from lirf_core.deposit import DepositResult, deposit, deposit_samples, scrub, unseen_margins
from lirf_core.lesson import Lesson, PreservedImages
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule
from lirf_core.training import Run
from worker.deposit_measurement import Networks, Older, Own, halved, measure
from worker.deposited_rows import open_whole, rows_of
from worker.images import labelled, together
from worker.runner import run
from worker.training import Training, TrainingHeartbeat
from worker.work import Work

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


def work_on(work: Work, deposit_id: str) -> bool:
    """Claim and carry out one deposit. Then the model's next one can run, and this one can be examined.

    Returns whether it could be claimed.
    """
    job = run(work, JOBS, deposit_id, _carry_out, _handle)
    if job is None:
        return False
    with work.database.session() as session:
        with session.begin():
            waiting = jobs.next_waiting(session, job)
        if waiting:
            work.doorbell.ring(JOBS.task, waiting)
        for evidence_id in evidence.request_wanted(session):
            work.doorbell.ring(EXAMINATIONS.task, evidence_id)
    return True


def _handle(work: Work, session: Session, job: Job, error: Exception) -> bool:
    if isinstance(error, OutOfMemory):
        log.error("deposit %s needs more memory", job.id, exc_info=error)
        JOBS.retry_with_half_the_batch(session, work.vault, job)
        return True
    if isinstance(error, ModuleReplaced):  # no fault of the deposit, so it does not count as an attempt
        JOBS.requeue(session, work.vault, job, str(error), attempts=job.attempt - 1)
        return True
    return False


def _carry_out(work: Work, session: Session, job: Job) -> None:
    with tracer.start_as_current_span("deposit", record_exception=False) as span:
        span.set_attributes({"lirf.deposit": job.id, "lirf.attempt": job.token})
        heartbeat = TrainingHeartbeat(work, JOBS, job, "Ask for fewer epochs or a smaller deposit set")
        heartbeat.phase("loading")
        if job.network.rows is None:  # an earlier version stored the model
            separation.separate(work.database, heartbeat.vault, job.model_id)
            job = JOBS.read_again(session, job)
        result, figures = make(work, session, job, heartbeat)

        def follow(session: Session, row: DepositRow) -> tuple[list[str], bool]:
            if figures:
                measurements.store(session, row.model_id, row.evaluation_set_id, row.revision, figures)
            return hardenings.follow_deposit(session, row)

        JOBS.publish(session, work.vault, job, result, follow)
        erasure.finish(work.database, work.vault)


def make(work: Work, session: Session, job: Job, heartbeat: TrainingHeartbeat) -> tuple[Result, Figures | None]:
    """All that a job publishes: stored, read back and measured. If anything fails, nothing stays in the vault."""
    if job.is_of_samples and job.older_modules:
        raise ValueError(
            "Another deposit of the model ended first, and its module knows these images. Purge it, then request this "
            "deposit again."
        )
    lesson = _lesson(work, job, heartbeat)
    deposited_rows = _older_rows(session, job, heartbeat)
    before = open_whole(job.network, deposited_rows, heartbeat.vault)
    oldest = _oldest(session, job, deposited_rows, heartbeat)
    start = _Start(before, oldest or before, lesson)
    trained = _train(work, job, start, heartbeat)
    with ExitStack() as stored:
        made = _store(job, before, trained, heartbeat)
        stored.enter_context(work.vault.discarded_on_error(made.target, made.rows, *made.modules.values()))
        target, modules = _read_back(job, made, deposited_rows, heartbeat)
        scrubbing = _Scrubbing(work, job, start, heartbeat)
        own = [Own(deposit_id, module, module, None) for deposit_id, module in modules.items()]
        if len(own) > 1:
            own = [scrubbing.of_group(one, stored) for one in own]
        older = []
        for one in job.older_modules:
            try:
                older.append(scrubbing.of_older(one, stored))
            except VaultDamaged:
                if jobs.has_module(session, one):
                    raise  # otherwise it was purged meanwhile
        original = oldest if job.oldest and job.oldest.revision == 0 else None
        measured = measure(work, job, Networks(original, before, target, own, older), lesson, heartbeat)
    scrubbed = {
        deposit_id: ScrubbedModule(deposit_id, module, measured.scrubs[deposit_id])
        for deposit_id, module in scrubbing.made.items()
    }
    deposits = [
        MadeDeposit(
            one.deposit_id,
            job.groups[one.deposit_id],
            made.modules[one.deposit_id],
            scrubbed.pop(one.deposit_id, None),
            measured.metrics[one.deposit_id],
            measured.losses[one.deposit_id],
        )
        for one in own
    ]
    return Result(made.target, made.rows, deposits, list(scrubbed.values())), measured.figures


def _lesson(work: Work, job: Job, heartbeat: TrainingHeartbeat) -> Lesson:
    sets = [labelled(work, heartbeat.vault, stored) for stored in job.deposit_sets]
    images = sets[0] if len(sets) == 1 else together([one.of_classes(job.deposited) for one in sets])
    preserved = None
    if job.preserved_set:
        # A deposit that was requested later may have ended first, and one of these classes with it.
        still = labelled(work, heartbeat.vault, job.preserved_set).of_classes(job.preserved)
        preserved = PreservedImages(still.images(), still.labels)
    return Lesson(images.images(), images.labels, job.deposited, job.preserved, job.preprocessing, preserved)


def _older_rows(session: Session, job: Job, heartbeat: TrainingHeartbeat) -> list[Rows]:
    """The rows of the classes that are deposited already. With them in place, the target keeps these classes down."""
    found: list[Rows] = []
    for older in (*job.older_modules, *job.replaced_modules):
        try:
            found += rows_of([older.stored], job.network.belonging, heartbeat.vault)
        except VaultDamaged:
            if jobs.has_module(session, older):
                raise
    return found


def _oldest(
    session: Session, job: Job, deposited_rows: Sequence[Rows], heartbeat: TrainingHeartbeat
) -> SplitNetwork | None:
    """The oldest network; None if it was destroyed, even meanwhile, or if the deposit starts from it."""
    if job.oldest is None:
        return None
    try:
        return open_whole(job.oldest, deposited_rows, heartbeat.vault)
    except VaultDamaged:
        if jobs.has_revision(session, job.model_id, job.oldest.revision):
            raise
        return None


@dataclass(frozen=True)
class _Start:
    """What a deposit and its scrubs start from. teacher: the oldest network, whose answers they keep."""

    before: SplitNetwork
    teacher: SplitNetwork
    lesson: Lesson


@tracer.start_as_current_span("train", record_exception=False)
def _train(work: Work, job: Job, start: _Start, heartbeat: TrainingHeartbeat) -> DepositResult:
    is_followed = bool(job.older_modules) or len(job.groups) > 1
    training = Training(heartbeat, TARGET, {"phase": "training"}, is_followed=is_followed, is_plotted=True)
    on_preparation = heartbeat.phase("preparing")

    def run_from(checkpoint: bytes | None) -> Run:
        return Run(job.config, work.training, training.on_step, on_preparation, checkpoint)

    if not job.is_of_samples:
        return training.resume(
            lambda checkpoint: deposit(start.before, start.lesson, run_from(checkpoint), start.teacher)
        )
    assert job.evaluation_set is not None
    images, _ = halved(labelled(work, heartbeat.vault, job.evaluation_set), job)
    unseen = unseen_margins(start.before, images.images(), images.labels, job.preprocessing, work.training)
    return training.resume(lambda checkpoint: deposit_samples(start.before, start.lesson, unseen, run_from(checkpoint)))


class _Scrubbing:
    """The scrubs of a job, one after the other: of each group's module and of each older one.

    made: the scrubbed modules in the vault, by their deposit's id.
    """

    def __init__(self, work: Work, job: Job, start: _Start, heartbeat: TrainingHeartbeat) -> None:
        self._work, self._job, self._start, self._heartbeat = work, job, start, heartbeat
        self._count = len(job.older_modules) + (len(job.groups) if len(job.groups) > 1 else 0)
        self._number = 0
        self.made: dict[str, StoredObject] = {}

    def of_group(self, own: Own, stored: ExitStack) -> Own:
        """This group's module, scrubbed of what it knows of the other groups' classes."""
        others = sorted({*self._job.deposited} - {*own.classes})
        lesson = self._start.lesson.of_classes(others)
        scrubbed = self._scrubbed(own.deposit_id, own.module, lesson, stored)
        return Own(own.deposit_id, own.module, self._afterwards(own.module, scrubbed), scrubbed)

    def of_older(self, older: OlderModule, stored: ExitStack) -> Older:
        """An older module, scrubbed of what it knew of the deposited classes.

        One that waits already is scrubbed further, so that it knows the classes of no later deposit.
        """
        vault, belonging = self._heartbeat.vault, self._job.network.belonging
        in_use = artifacts.load_module(vault.read(older.stored), belonging)
        waiting = older.scrubbed and artifacts.load_module(vault.read(older.scrubbed), belonging)
        scrubbed = self._scrubbed(older.deposit_id, waiting or in_use, self._start.lesson, stored)
        return Older(older.deposit_id, in_use, self._afterwards(in_use, scrubbed), waiting or in_use, scrubbed)

    def _afterwards(self, module: DepositModule, scrubbed: DepositModule) -> DepositModule:
        """The one of them that is in use once the job is published."""
        return scrubbed if self._job.policy.scrubs_at_once else module

    @tracer.start_as_current_span("scrub", record_exception=False)
    def _scrubbed(self, deposit_id: str, module: DepositModule, lesson: Lesson, stored: ExitStack) -> DepositModule:
        """The module without the classes of the lesson, stored and read back. stored: discards it on an error."""
        job, work, start = self._job, self._work, self._start
        self._number += 1
        progress = {"phase": "scrubbing", "module": self._number, "modules": self._count}
        training = Training(self._heartbeat, deposit_id, progress, is_followed=self._number < self._count)
        on_preparation = self._heartbeat.phase("preparing")

        def run_from(checkpoint: bytes | None) -> DepositModule:
            run = Run(job.config, work.training, training.on_step, on_preparation, checkpoint)
            return scrub(module, start.before.upper, lesson, run, start.teacher)

        scrubbed = training.resume(run_from)
        binding = Binding("module", job.model_id, deposit_id)
        self.made[deposit_id] = self._heartbeat.vault.put(
            binding, [artifacts.dump_module(scrubbed, job.network.belonging)]
        )
        stored.enter_context(work.vault.discarded_on_error(self.made[deposit_id]))
        return artifacts.load_module(self._heartbeat.vault.read(self.made[deposit_id]), job.network.belonging)


@dataclass(frozen=True)
class _Made:
    """A job's own objects in the vault. modules: by their deposit's id."""

    target: StoredObject
    rows: StoredObject
    modules: dict[str, StoredObject]


@tracer.start_as_current_span("store", record_exception=False)
def _store(job: Job, before: SplitNetwork, result: DepositResult, heartbeat: TrainingHeartbeat) -> _Made:
    """The target's lower part, the rows that it keeps, and each group's module with the group's own."""
    heartbeat.phase("storing")
    vault, belonging = heartbeat.vault, job.network.belonging
    kept = rows.take(before, job.answered)
    with ExitStack() as on_error:

        def put(kind: Kind, plaintext: bytes, deposit_id: str = job.id) -> StoredObject:
            stored = vault.put(Binding(kind, job.model_id, deposit_id), [plaintext])
            on_error.enter_context(vault.discarded_on_error(stored))
            return stored

        return _Made(
            modules={
                deposit_id: put("module", artifacts.dump_module(module, belonging), deposit_id)
                for deposit_id, module in _of_groups(job, result.module).items()
            },
            rows=put("rows", artifacts.dump_rows(kept, belonging)),
            target=put("lower", artifacts.dump_lower(result.target, belonging)),
        )


def _of_groups(job: Job, module: DepositModule) -> dict[str, DepositModule]:
    """Each group's module, by its deposit's id. They are trained together, as one."""
    if len(job.groups) == 1:
        return dict.fromkeys(job.groups, module)
    return {deposit_id: module.only(classes) for deposit_id, classes in job.groups.items()}


@tracer.start_as_current_span("read back", record_exception=False)
def _read_back(
    job: Job, made: _Made, older_rows: list[Rows], heartbeat: TrainingHeartbeat
) -> tuple[SplitNetwork, dict[str, DepositModule]]:
    """What the vault gives back, decrypted and rebuilt: that is what will serve, not what is in memory.

    The target has the deposited rows put back, so it has to have forgotten the classes itself.
    """
    vault = heartbeat.vault
    modules = {
        deposit_id: artifacts.load_module(vault.read(module), job.network.belonging)
        for deposit_id, module in made.modules.items()
    }
    own_rows = [module.rows for module in modules.values() if module.rows]
    stored = replace(job.network, lower=made.target, rows=made.rows)
    return open_whole(stored, [*older_rows, *own_rows], vault), modules
