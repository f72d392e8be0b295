"""A hardening, step by step: make the transfer set, distil the target, store it, read it back, measure, publish."""

import logging
from dataclasses import dataclass

import torch
from opentelemetry import trace
from sqlalchemy.orm import Session
from torch import Tensor

from app.deposits import separation
from app.deposits.losses import Losses
from app.hardenings.jobs import JOBS, HardenedNetwork, Job
from app.vault import erasure
from app.vault.service import Binding
from lirf_core import artifacts
from lirf_core.architectures import untrained
from lirf_core.class_rows import spread
from lirf_core.compute import OutOfMemory
from lirf_core.evidence.images import Labelled
from lirf_core.hardening import HardeningRun, Transfer, harden
from lirf_core.network import SplitNetwork, freeze
from lirf_core.proxies import make_proxies
from worker.images import labelled
from worker.measuring import Comparison, Measuring, total_loss
from worker.runner import run
from worker.training import Training, TrainingHeartbeat
from worker.work import Work

PART = "hardened"  # of the job's checkpoints
log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


def harden_target(work: Work, hardening_id: str) -> bool:
    """Claim and carry out one hardening. Returns whether it could be claimed."""
    return run(work, JOBS, hardening_id, _carry_out, _handle) is not None


def _handle(work: Work, session: Session, job: Job, error: Exception) -> bool:
    if isinstance(error, OutOfMemory):
        log.error("hardening %s needs more memory", job.id, exc_info=error)
        reason = "The device has too little memory. Ask for a smaller batch_size, or give the worker another device."
        JOBS.fail(session, work.vault, job, reason)
        return True
    return False


def _carry_out(work: Work, session: Session, job: Job) -> None:
    with tracer.start_as_current_span("harden", record_exception=False) as span:
        span.set_attributes({"lirf.hardening": job.id, "lirf.attempt": job.token})
        heartbeat = TrainingHeartbeat(work, JOBS, job, "Ask for fewer epochs or fewer images")
        heartbeat.phase("loading")
        if job.target.rows is None:  # an earlier version stored the model
            separation.separate(work.database, heartbeat.vault, job.model_id)
            job = JOBS.read_again(session, job)
        images = labelled(work, heartbeat.vault, job.transfer_set)
        target = job.target.open(heartbeat.vault)
        trained = _train(work, job, target, images, heartbeat)
        heartbeat.phase("storing")
        belonging = job.target.belonging
        stored = heartbeat.vault.put(
            Binding("hardened", job.model_id, job.id), [artifacts.dump_hardened(trained, belonging)]
        )
        with work.vault.discarded_on_error(stored):
            # What will serve is what the vault gives back, not what is in memory.
            hardened = HardenedNetwork(stored, belonging, job.target.revision).open(heartbeat.vault)
            losses = _measure(work, job, _Networks(target, hardened), images, heartbeat)
        JOBS.publish(session, work.vault, job, stored, losses)
        erasure.finish(work.database, work.vault)


@tracer.start_as_current_span("train", record_exception=False)
def _train(work: Work, job: Job, target: SplitNetwork, images: Labelled, heartbeat: TrainingHeartbeat) -> SplitNetwork:
    """A network of the target's shape, with rows for the preserved classes only."""
    on_batch = heartbeat.phase("preparing")
    cfg, compute, belonging = job.config, work.training, job.target.belonging
    generator = torch.Generator().manual_seed(cfg.seed)
    proxies = make_proxies(
        compute.place(target),
        images.images().to(compute.device),
        torch.tensor(job.preserved, device=compute.device),
        cfg.proxies,
        job.preprocessing,
        compute,
        generator,
        on_batch,
    )
    fresh = untrained(belonging.spec, belonging.split, cfg.seed)
    parts = [images.images(), proxies.images.cpu(), *_preserved_images(work, job, heartbeat)]
    transfer = Transfer(torch.cat(parts), job.preserved, job.preprocessing)
    training = Training(heartbeat, PART, {"phase": "training"}, is_plotted=True)
    result = training.resume(
        lambda checkpoint: harden(target, fresh, transfer, HardeningRun(cfg, compute, training.on_step, checkpoint))
    )
    whole = spread(result.cpu(), job.preserved, len(job.class_names))
    freeze(whole)
    return whole


def _preserved_images(work: Work, job: Job, heartbeat: TrainingHeartbeat) -> list[Tensor]:
    """The deposit's preserved images, if it had some, as often as makes them about as many as the proxies."""
    if job.preserved_set is None:
        return []
    shown = labelled(work, heartbeat.vault, job.preserved_set).of_classes(job.preserved).images()
    return [shown] * max(1, job.config.proxies // max(1, len(shown)))


@dataclass(frozen=True)
class _Networks:
    target: SplitNetwork
    hardened: SplitNetwork


@tracer.start_as_current_span("measure", record_exception=False)
def _measure(work: Work, job: Job, networks: _Networks, images: Labelled, heartbeat: TrainingHeartbeat) -> Losses:
    """What the preserved classes lose against the working target, on the evaluation set or on proxies."""
    on_batch = heartbeat.phase("evaluating")
    held_out = labelled(work, heartbeat.vault, job.evaluation_set) if job.evaluation_set else None
    measuring = Measuring(held_out, images, job.class_names, job.preprocessing, work.inference, on_batch)
    target, hardened = networks.target, networks.hardened
    compared = Comparison(target, hardened, measuring.tally(target), measuring.tally(hardened))
    losses = measuring.losses(compared, job.preserved, job.policy.max_preserved_loss)
    return Losses(losses, total_loss([], losses, job.earlier_loss))
