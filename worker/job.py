"""What the task does: claim a deposit, train it, store it, read it back, scrub older modules, measure, publish."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.database import Database
from app.datasets import service as datasets
from app.deposits import jobs
from app.deposits.doorbell import Doorbell
from app.deposits.jobs import Cancelled, HeldModule, Job, LeaseLost
from app.errors import Problem
from app.settings import Settings
from app.vault.service import Binding, StoredObject, VaultDamaged, open_vault
from lirf_core import artifacts, metrics
from lirf_core.archives import ImageSet
from lirf_core.compute import Compute
from lirf_core.deposit import DepositResult, deposit, scrub
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule, RecoverNetwork
from lirf_core.training import DepositDiverged, Progress

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 1.0


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
        job = jobs.claim(session, work.settings, deposit_id)
        if job is None:
            return
        try:
            _carry_out(work, session, job)
        except Cancelled:
            jobs.confirm_cancelled(session, work.vault, job)
        except LeaseLost as lost:
            log.warning("%s", lost)
        except (SQLAlchemyError, OSError, VaultDamaged) as error:
            log.exception("deposit %s was interrupted", job.id)
            session.rollback()
            jobs.give_back(session, work.vault, work.settings, job, f"{type(error).__name__}: {_first_line(error)}")
        except (DepositDiverged, Problem, ValueError) as error:
            jobs.fail(session, work.vault, job, str(error))
        except Exception as error:
            jobs.fail(session, work.vault, job, f"{type(error).__name__} in the worker; its log says more.")
            raise
        except BaseException:  # the worker is being stopped
            session.rollback()
            jobs.give_back(session, work.vault, work.settings, job, None)
            raise
        for waiting_id in [other for other in jobs.waiting(session, job.model_id) if other != job.id][:1]:
            work.doorbell.ring(waiting_id)


def _carry_out(work: Work, session: Session, job: Job) -> None:
    pulse = _Pulse(work, job)
    deposit_set = datasets.load(work.vault, job.deposit_set, work.settings.spool, pulse.phase("loading"))
    original = job.network.open(work.vault)
    result = _train(work, job, original, deposit_set, pulse)
    with ExitStack() as kept:
        target, module = _store(work, job, result, pulse)
        kept.enter_context(work.vault.discarded_on_error(target, module))
        read_back = _read_back(work, job, target, module)
        scrubbed: list[HeldModule] = []
        for number, held in enumerate(job.older_modules, 1):
            try:
                scrubbed.append(_scrub(work, job, held, original, deposit_set, pulse.part(number)))
            except VaultDamaged:
                if jobs.holds(session, held):
                    raise
                continue  # it was purged meanwhile
            kept.enter_context(work.vault.discarded_on_error(scrubbed[-1].stored))
        measured = _measure(work, job, original, *read_back, pulse)
    jobs.publish(session, work.vault, job, target, module, scrubbed, measured)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


class _Pulse:
    """Renews the lease, but only when the work has advanced, and at most once a second."""

    def __init__(self, work: Work, job: Job) -> None:
        self._work, self._job, self._next = work, job, 0.0
        self._training: dict[str, Any] = {"phase": "training"}

    def part(self, number: int) -> "_Pulse":
        """For the scrubbing of the older module of this number, from 1."""
        pulse = _Pulse(self._work, self._job)
        pulse._training = {"phase": "scrubbing", "module": number, "modules": len(self._job.older_modules)}
        return pulse

    def step(self, progress: Progress) -> None:
        if time.monotonic() >= self._next:
            where = {name: getattr(progress, name) for name in ("epoch", "epochs", "step", "steps")}
            self.beat({**self._training, **where, "losses": progress.loss_values()})

    def phase(self, name: str) -> Callable[[], None]:
        """Says where the work is; call the result for each piece of the phase that is done."""
        self.beat({"phase": name})

        def advanced() -> None:
            if time.monotonic() >= self._next:
                self.beat({"phase": name})

        return advanced

    def beat(self, progress: dict[str, Any]) -> None:
        with self._work.database.session() as session:
            jobs.heartbeat(session, self._work.settings, self._job, progress)
        self._next = time.monotonic() + HEARTBEAT_SECONDS


def _train(work: Work, job: Job, original: SplitNetwork, deposit_set: ImageSet, pulse: _Pulse) -> DepositResult:
    return deposit(
        original,
        deposit_set.images,
        deposit_set.labels,
        job.deposited,
        job.preserved,
        job.preprocessing,
        job.config,
        work.training,
        pulse.step,
        pulse.phase("preparing"),
    )


def _scrub(
    work: Work, job: Job, held: HeldModule, original: SplitNetwork, deposit_set: ImageSet, pulse: _Pulse
) -> HeldModule:
    """An older module without what it knew of the deposited classes; stored, and read back."""
    belonging = job.network.belonging
    scrubbed = scrub(
        artifacts.load_module(work.vault.read(held.stored), belonging),
        original.upper,
        deposit_set.images,
        deposit_set.labels,
        job.deposited,
        job.preserved,
        job.preprocessing,
        job.config,
        work.training,
        pulse.step,
        pulse.phase("preparing"),
    )
    binding = Binding("module", job.model_id, held.deposit_id)
    stored = work.vault.put(binding, [artifacts.dump_module(scrubbed, belonging)])
    with work.vault.discarded_on_error(stored):
        artifacts.load_module(work.vault.read(stored), belonging)
    return HeldModule(held.deposit_id, stored)


def _store(work: Work, job: Job, result: DepositResult, pulse: _Pulse) -> tuple[StoredObject, StoredObject]:
    pulse.phase("storing")
    belonging = job.network.belonging
    module = work.vault.put(Binding("module", job.model_id, job.id), [artifacts.dump_module(result.module, belonging)])
    with work.vault.discarded_on_error(module):
        target = work.vault.put(
            Binding("lower", job.model_id, job.id), [artifacts.dump_lower(result.target, belonging)]
        )
    return target, module


def _read_back(work: Work, job: Job, target: StoredObject, module: StoredObject) -> tuple[SplitNetwork, DepositModule]:
    """What will serve is what the vault gives back, decrypted and rebuilt, not what is in memory."""
    belonging = job.network.belonging
    network = artifacts.load_network(work.vault.read(job.network.upper), work.vault.read(target), belonging)
    return network, artifacts.load_module(work.vault.read(module), belonging)


def _measure(
    work: Work, job: Job, original: SplitNetwork, target: SplitNetwork, module: DepositModule, pulse: _Pulse
) -> dict[str, Any] | None:
    """Original, target and recover network on the evaluation set's images of the classes that answered before."""
    if job.evaluation_set is None:
        return None
    advanced = pulse.phase("evaluating")
    held_out = datasets.load(work.vault, job.evaluation_set, work.settings.spool, advanced)
    answering = sorted([*job.preserved, *job.deposited])
    chosen = torch.isin(held_out.labels, torch.tensor(answering))
    images, labels = held_out.images[chosen], held_out.labels[chosen]
    if not len(labels):
        return None
    recover = RecoverNetwork(target, [module], job.network.belonging.upper_digest, job.preserved)
    measured: dict[str, Any] = {}
    for name, network in (("original", original), ("target", target), ("recover", recover)):
        logits = metrics.logits_of(work.inference.place(network), images, job.preprocessing, work.inference, advanced)
        accuracy = asdict(metrics.accuracy(logits, labels, job.deposited))
        by_class = {job.class_names[i]: accuracy["by_class"][i] for i in answering}
        measured[name] = {
            **{f"{part}_accuracy": accuracy[part] for part in ("preserved", "deposited", "average")},
            "by_class": by_class,
        }
    before, after = measured["original"]["deposited_accuracy"], measured["target"]["deposited_accuracy"]
    forgotten = None if before is None else metrics.forgetting(before, after)
    preserved = measured["target"]["preserved_accuracy"]
    h_mean = None if forgotten is None or preserved is None else metrics.h_mean(preserved, forgotten)
    return {**measured, "forgetting": forgotten, "h_mean": h_mean}
