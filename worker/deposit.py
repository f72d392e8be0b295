"""What the task does: claim a deposit, train it, store it, read it back, scrub older modules, measure, publish."""

import logging
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from opentelemetry import trace
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from torch import Tensor, nn

from app.base.database import Database
from app.base.errors import Problem
from app.base.settings import Settings
from app.datasets import service as datasets
from app.deposits import checkpoints, jobs
from app.deposits.jobs import Cancelled, HeldModule, Job, LeaseLost
from app.evidence import service as evidence
from app.jobs.doorbell import EXAMINE, Doorbell
from app.vault.service import Binding, StoredObject, VaultDamaged, open_vault
from lirf_core import artifacts, metrics
from lirf_core.compute import Compute, OutOfMemory, memory_errors
from lirf_core.deposit import DepositResult, deposit, scrub
from lirf_core.evidence.images import Labelled, sides
from lirf_core.evidence.membership import attack
from lirf_core.images.archives import ImageSet
from lirf_core.lesson import Lesson
from lirf_core.losses import margins
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule, RecoverNetwork
from lirf_core.training import DepositDiverged, Run
from worker.heartbeat import DepositPulse, TookTooLong, Training

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


class Work:
    """What a deposit needs at hand, opened once for each process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.vault = open_vault(settings)
        self.training, self.inference = Compute.for_training(settings.device), Compute.for_inference(settings.device)
        self.doorbell = Doorbell(settings)


def work_on(work: Work, deposit_id: str) -> None:
    """Claims, trains, stores, reads back, measures and publishes one deposit, or ends it with the reason."""
    with work.database.session() as session:
        try:
            job = jobs.claim(session, work.settings, deposit_id)
        except SQLAlchemyError:
            raise
        except Exception as error:
            log.exception("deposit %s cannot be begun", deposit_id)
            why = error.detail if isinstance(error, Problem) else f"{type(error).__name__}; the worker's log says more."
            jobs.refuse(session, work.vault, deposit_id, f"it cannot be begun: {why}")
            return
        if job is None:
            return
        try:
            with memory_errors(), tracer.start_as_current_span("deposit", record_exception=False) as span:
                span.set_attributes({"lirf.deposit": job.id, "lirf.attempt": job.token})
                _carry_out(work, session, job)
        except Cancelled:
            jobs.confirm_cancelled(session, work.vault, job)
        except LeaseLost as lost:
            log.warning("%s", lost)
        except (SQLAlchemyError, OSError, VaultDamaged) as error:
            log.exception("deposit %s was interrupted", job.id)
            session.rollback()
            jobs.give_back(session, work.vault, work.settings, job, f"{type(error).__name__}: {_first_line(error)}")
        except (DepositDiverged, TookTooLong, Problem, ValueError) as error:
            jobs.fail(session, work.vault, job, str(error))
        except OutOfMemory:
            log.exception("deposit %s needs more memory", job.id)
            jobs.try_smaller(session, work.vault, job)
        except Exception as error:
            jobs.fail(session, work.vault, job, f"{type(error).__name__} in the worker; its log says more.")
            raise
        except BaseException:  # the worker is being stopped
            session.rollback()
            jobs.give_back(session, work.vault, work.settings, job, None)
            raise
        _ring_next(work, session, job)


def _ring_next(work: Work, session: Session, job: Job) -> None:
    """The model's next deposit can run now, and this one can be examined."""
    with session.begin():
        waiting = jobs.waiting(session, job.model_id)
    for waiting_id in [other for other in waiting if other != job.id][:1]:
        work.doorbell.ring(waiting_id)
    for evidence_id in evidence.request_wanted(session):
        work.doorbell.ring(evidence_id, EXAMINE)


def _carry_out(work: Work, session: Session, job: Job) -> None:
    pulse = DepositPulse(work.database, work.vault, work.settings, job)
    pulse.phase("loading")
    deposit_set = datasets.load(pulse.vault, job.deposit_set, work.settings.spool)
    original = job.network.open(pulse.vault)
    result = _train(work, job, original, deposit_set, pulse)
    with ExitStack() as kept:
        target, module = _store(job, result, pulse)
        kept.enter_context(work.vault.discarded_on_error(target, module))
        read_back = _read_back(job, target, module, pulse)
        scrubbed: list[HeldModule] = []
        for number, held in enumerate(job.older_modules):
            try:
                scrubbed.append(_scrub(work, job, number, original, deposit_set, pulse))
            except VaultDamaged:
                if jobs.holds(session, held):
                    raise
                continue  # it was purged meanwhile
            kept.enter_context(work.vault.discarded_on_error(scrubbed[-1].stored))
        measured = _measure(work, job, original, *read_back, deposit_set, pulse)
    if jobs.publish(session, work.vault, job, target, module, scrubbed, measured):
        work.database.erase_freed_data()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


@tracer.start_as_current_span("train", record_exception=False)
def _train(work: Work, job: Job, original: SplitNetwork, deposit_set: ImageSet, pulse: DepositPulse) -> DepositResult:
    training = Training(pulse, checkpoints.TARGET, {"phase": "training"}, is_followed=bool(job.older_modules))
    lesson, run = _lesson(job, deposit_set), Run(job.config, work.training, training.step, pulse.phase("preparing"))
    return training.resumed(lambda checkpoint: deposit(original, lesson, replace(run, checkpoint=checkpoint)))


@tracer.start_as_current_span("scrub", record_exception=False)
def _scrub(
    work: Work, job: Job, number: int, original: SplitNetwork, deposit_set: ImageSet, pulse: DepositPulse
) -> HeldModule:
    """The older module of this number without what it knew of the deposited classes; stored, and read back."""
    held, count, belonging = job.older_modules[number], len(job.older_modules), job.network.belonging
    told = {"phase": "scrubbing", "module": number + 1, "modules": count}
    training = Training(pulse, held.deposit_id, told, is_followed=number + 1 < count)
    module = artifacts.load_module(pulse.vault.read(held.stored), belonging)
    lesson, run = _lesson(job, deposit_set), Run(job.config, work.training, training.step, pulse.phase("preparing"))
    scrubbed = training.resumed(
        lambda checkpoint: scrub(module, original.upper, lesson, replace(run, checkpoint=checkpoint))
    )
    binding = Binding("module", job.model_id, held.deposit_id)
    stored = pulse.vault.put(binding, [artifacts.dump_module(scrubbed, belonging)])
    with work.vault.discarded_on_error(stored):
        artifacts.load_module(pulse.vault.read(stored), belonging)
    return HeldModule(held.deposit_id, stored)


def _lesson(job: Job, deposit_set: ImageSet) -> Lesson:
    return Lesson(deposit_set.images, deposit_set.labels, job.deposited, job.preserved, job.preprocessing)


@tracer.start_as_current_span("store", record_exception=False)
def _store(job: Job, result: DepositResult, pulse: DepositPulse) -> tuple[StoredObject, StoredObject]:
    pulse.phase("storing")
    vault, belonging = pulse.vault, job.network.belonging
    module = vault.put(Binding("module", job.model_id, job.id), [artifacts.dump_module(result.module, belonging)])
    with vault.discarded_on_error(module):
        target = vault.put(Binding("lower", job.model_id, job.id), [artifacts.dump_lower(result.target, belonging)])
    return target, module


@tracer.start_as_current_span("read back", record_exception=False)
def _read_back(
    job: Job, target: StoredObject, module: StoredObject, pulse: DepositPulse
) -> tuple[SplitNetwork, DepositModule]:
    """What will serve is what the vault gives back, decrypted and rebuilt, not what is in memory."""
    vault, belonging = pulse.vault, job.network.belonging
    network = artifacts.load_network(vault.read(job.network.upper), vault.read(target), belonging)
    return network, artifacts.load_module(vault.read(module), belonging)


@tracer.start_as_current_span("measure", record_exception=False)
def _measure(
    work: Work,
    job: Job,
    original: SplitNetwork,
    target: SplitNetwork,
    module: DepositModule,
    deposit_set: ImageSet,
    pulse: DepositPulse,
) -> dict[str, Any] | None:
    """Original, target and recover network on the evaluation set's images of the classes that answered before.

    Membership inference is measured here, too: the deposit set is shredded when the deposit ends.
    """
    if job.evaluation_set is None:
        return None
    advanced = pulse.phase("evaluating")
    stored = datasets.load(pulse.vault, job.evaluation_set, work.settings.spool)
    answering = sorted([*job.preserved, *job.deposited])
    held_out = Labelled(stored.images, stored.labels).of_classes(answering)
    if not len(held_out):
        return None
    recover = RecoverNetwork(target, [module], job.network.belonging.upper_digest, job.preserved)
    measured: dict[str, Any] = {}
    membership: dict[str, Any] = {}
    shown = Labelled(deposit_set.images, deposit_set.labels)
    members, strangers = sides(shown, held_out.of_classes(job.deposited))

    def logits_of(network: nn.Module, of: Labelled) -> Tensor:
        placed, inference = work.inference.place(network), work.inference
        return of.ask(lambda images: metrics.logits_of(placed, images, job.preprocessing, inference, advanced))

    for name, network in (("original", original), ("target", target), ("recover", recover)):
        if len(members):
            of = [margins(logits_of(network, side), side.labels) for side in (members, strangers)]
            membership[name] = asdict(attack(*of))
        accuracy = asdict(metrics.accuracy(logits_of(network, held_out), held_out.labels, job.deposited))
        by_class = {job.class_names[i]: accuracy["by_class"][i] for i in answering}
        measured[name] = {
            **{f"{part}_accuracy": accuracy[part] for part in ("preserved", "deposited", "average")},
            "by_class": by_class,
        }
    before, after = measured["original"]["deposited_accuracy"], measured["target"]["deposited_accuracy"]
    forgotten = None if before is None else metrics.forgetting(before, after)
    preserved = measured["target"]["preserved_accuracy"]
    h_mean = None if forgotten is None or preserved is None else metrics.h_mean(preserved, forgotten)
    return {**measured, "forgetting": forgotten, "h_mean": h_mean, "membership": membership or None}
