"""A deposit, step by step: train it, store it, read it back, scrub older modules, measure, publish."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from opentelemetry import trace
from sqlalchemy.orm import Session

from app.deposits import jobs, separation
from app.deposits.jobs import JOBS, TARGET, Job, ModuleReplaced, Result
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
from worker.deposit_measurement import Networks, Older, halved, measure
from worker.deposited_rows import open_whole, rows_of
from worker.images import labelled
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
        result, figures = _make(work, session, job, heartbeat)

        def follow(session: Session, row: DepositRow) -> tuple[list[str], bool]:
            if figures:
                measurements.store(session, row, figures)
            return hardenings.follow_deposit(session, row)

        JOBS.publish(session, work.vault, job, result, follow)
        erasure.finish(work.database, work.vault)


def _make(work: Work, session: Session, job: Job, heartbeat: TrainingHeartbeat) -> tuple[Result, Figures | None]:
    """All that a deposit publishes: stored, read back and measured. If anything fails, nothing stays in the vault."""
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
        stored.enter_context(work.vault.discarded_on_error(made.target, made.rows, made.module))
        read_back = _read_back(job, made, deposited_rows, heartbeat)
        scrubbed: dict[str, StoredObject] = {}
        older: list[Older] = []
        for number, one in enumerate(job.older_modules):
            try:
                module, of_older = _scrub(work, job, number, start, heartbeat)
            except VaultDamaged:
                if jobs.has_module(session, one):
                    raise
                continue  # it was purged meanwhile
            stored.enter_context(work.vault.discarded_on_error(module))
            scrubbed[one.deposit_id] = module
            older.append(of_older)
        original = oldest if job.oldest and job.oldest.revision == 0 else None
        measured = measure(work, job, Networks(original, before, *read_back, older), lesson, heartbeat)
    kept = [ScrubbedModule(deposit_id, module, measured.scrubs[deposit_id]) for deposit_id, module in scrubbed.items()]
    return Result(made.target, made.rows, made.module, kept, measured.metrics, measured.losses), measured.figures


def _lesson(work: Work, job: Job, heartbeat: TrainingHeartbeat) -> Lesson:
    images = labelled(work, heartbeat.vault, job.deposit_set)
    preserved = None
    if job.preserved_set:
        # A deposit that was requested later may have ended first, and one of these classes with it.
        still = labelled(work, heartbeat.vault, job.preserved_set).of_classes(job.preserved)
        preserved = PreservedImages(still.images(), still.labels)
    return Lesson(images.images(), images.labels, job.deposited, job.preserved, job.preprocessing, preserved)


def _older_rows(session: Session, job: Job, heartbeat: TrainingHeartbeat) -> list[Rows]:
    """The rows of the classes that are deposited already. With them in place, the target keeps these classes down."""
    found: list[Rows] = []
    for older in job.older_modules:
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
    is_followed = bool(job.older_modules)
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


@tracer.start_as_current_span("scrub", record_exception=False)
def _scrub(
    work: Work, job: Job, number: int, start: _Start, heartbeat: TrainingHeartbeat
) -> tuple[StoredObject, Older]:
    """The older module of this number, scrubbed of what it knew of the deposited classes, stored and read back.

    One that waits already is scrubbed further, so that it knows the classes of no later deposit.
    """
    older, count, belonging = job.older_modules[number], len(job.older_modules), job.network.belonging
    progress = {"phase": "scrubbing", "module": number + 1, "modules": count}
    training = Training(heartbeat, older.deposit_id, progress, is_followed=number + 1 < count)
    in_use = artifacts.load_module(heartbeat.vault.read(older.stored), belonging)
    waiting = older.scrubbed and artifacts.load_module(heartbeat.vault.read(older.scrubbed), belonging)
    on_preparation = heartbeat.phase("preparing")

    def run_from(checkpoint: bytes | None) -> DepositModule:
        run = Run(job.config, work.training, training.on_step, on_preparation, checkpoint)
        return scrub(waiting or in_use, start.before.upper, start.lesson, run, start.teacher)

    scrubbed = training.resume(run_from)
    binding = Binding("module", job.model_id, older.deposit_id)
    stored = heartbeat.vault.put(binding, [artifacts.dump_module(scrubbed, belonging)])
    with work.vault.discarded_on_error(stored):
        read_back = artifacts.load_module(heartbeat.vault.read(stored), belonging)
    afterwards = read_back if job.policy.scrubs_at_once else in_use
    return stored, Older(older.deposit_id, in_use, afterwards, waiting or in_use, read_back)


@dataclass(frozen=True)
class _Made:
    """A deposit's own objects in the vault."""

    target: StoredObject
    rows: StoredObject
    module: StoredObject


@tracer.start_as_current_span("store", record_exception=False)
def _store(job: Job, before: SplitNetwork, result: DepositResult, heartbeat: TrainingHeartbeat) -> _Made:
    """The target's lower part, the rows that it keeps, and the module with the others."""
    heartbeat.phase("storing")
    vault, belonging = heartbeat.vault, job.network.belonging
    kept = rows.take(before, job.answered)
    with ExitStack() as on_error:

        def put(kind: Kind, plaintext: bytes) -> StoredObject:
            stored = vault.put(Binding(kind, job.model_id, job.id), [plaintext])
            on_error.enter_context(vault.discarded_on_error(stored))
            return stored

        return _Made(
            module=put("module", artifacts.dump_module(result.module, belonging)),
            rows=put("rows", artifacts.dump_rows(kept, belonging)),
            target=put("lower", artifacts.dump_lower(result.target, belonging)),
        )


@tracer.start_as_current_span("read back", record_exception=False)
def _read_back(
    job: Job, made: _Made, older_rows: list[Rows], heartbeat: TrainingHeartbeat
) -> tuple[SplitNetwork, DepositModule]:
    """What the vault gives back, decrypted and rebuilt: that is what will serve, not what is in memory.

    The target has the deposited rows put back, so it has to have forgotten the classes itself.
    """
    vault = heartbeat.vault
    module = artifacts.load_module(vault.read(made.module), job.network.belonging)
    assert module.rows
    stored = replace(job.network, lower=made.target, rows=made.rows)
    return open_whole(stored, [*older_rows, module.rows], vault), module
