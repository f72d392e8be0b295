"""An examination, step by step: open the networks, attack them, keep the evidence."""

import logging
from dataclasses import asdict, replace

import safetensors.torch
from opentelemetry import trace
from sqlalchemy.orm import Session

from app.evidence.jobs import JOBS, Destroyed, Job
from app.vault.service import Binding, Vault, VaultDamaged
from lirf_core import artifacts
from lirf_core.architectures import empty, untrained
from lirf_core.compute import OutOfMemory
from lirf_core.evidence.examination import Case, Examination, Networks
from lirf_core.evidence.reference import Schooling, train_reference
from lirf_core.evidence.results import PARTS, Evidence
from lirf_core.network import SplitNetwork, flat_state, freeze, load_flat_state
from lirf_core.training import DepositDiverged
from worker.deposited_rows import open_whole, rows_of
from worker.heartbeat import Heartbeat
from worker.images import labelled
from worker.runner import run
from worker.training import Training, TrainingHeartbeat
from worker.work import Work

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


def examine(work: Work, evidence_id: str) -> bool:
    """Claim and carry out one examination. Returns whether it could be claimed."""
    return run(work, JOBS, evidence_id, _carry_out, _handle) is not None


def _handle(work: Work, session: Session, job: Job, error: Exception) -> bool:
    # An object that does not open may have been destroyed since the last heartbeat.
    if isinstance(error, Destroyed) or (isinstance(error, VaultDamaged) and JOBS.is_destroyed(session, job)):
        log.warning("evidence %s begins again with what is left", job.id)
        JOBS.begin_again(session, work.vault, job)
        return True
    if isinstance(error, OutOfMemory):
        log.error("evidence %s needs more memory", job.id, exc_info=error)
        reason = "The device has too little memory to train next to what it holds. Give the worker more memory."
        JOBS.fail(session, work.vault, job, reason)
        return True
    if isinstance(error, DepositDiverged):
        JOBS.fail(session, work.vault, job, "The reference's training diverged. Upload more images for it.")
        return True
    return False


def _carry_out(work: Work, session: Session, job: Job) -> None:
    with tracer.start_as_current_span("examine", record_exception=False) as span:
        span.set_attributes({"lirf.evidence": job.id, "lirf.deposit": job.deposit_id, "lirf.attempt": job.attempt})
        job, trained = _with_reference(work, session, job)
        evidence = _examine(work, job, trained)
    JOBS.finish(session, work.vault, job, asdict(evidence))


def _examine(work: Work, job: Job, trained: SplitNetwork | None) -> Evidence:
    """trained: the reference that was trained for it, if that was asked for."""
    heartbeat = Heartbeat(work, JOBS, job, "Examine it with fewer held-out images")
    heartbeat.beat({})
    networks = _networks(job, heartbeat.vault, trained)
    held_out = labelled(work, heartbeat.vault, job.evaluation_set)
    case = Case(
        job.class_names,
        job.deposited,
        job.preserved,
        held_out.of_classes([*job.preserved, *job.deposited]),
        labelled(work, heartbeat.vault, job.members).of_classes(job.deposited) if job.members else None,
        job.preprocessing,
        job.augmentation,
    )
    places = {part: {"part": part, "number": number + 1, "parts": len(PARTS)} for number, part in enumerate(PARTS)}

    def on_step(part: str, piece: str) -> None:
        heartbeat.advance(lambda: {**places[part], "piece": piece or None})

    evidence = Examination(networks, case, work.training, work.inference, on_step, strength=job.attackers).run()
    if trained:
        evidence.missing["reference"] = (
            "The service trained it from scratch, on images of preserved classes that were uploaded for it. Nothing "
            "but these images says that it never saw the deposited classes."
        )
    if job.members is None and job.membership:
        evidence = replace(evidence, membership=job.membership)
        evidence.missing["membership"] = (
            f"Measured when the module was made, on revision {job.deposit_revision}. The images were shredded after "
            "that."
        )
    return evidence


def _with_reference(work: Work, session: Session, job: Job) -> tuple[Job, SplitNetwork | None]:
    """The job, and the reference that was asked for with images: trained now, or by an earlier attempt."""
    split = job.target.belonging.split
    heartbeat = TrainingHeartbeat(work, JOBS, job, "Upload fewer images for the reference")
    if job.trained_reference:
        network = empty(job.spec, split)
        load_flat_state(network, safetensors.torch.load(heartbeat.vault.read(job.trained_reference)))
        freeze(network)
        return job, network
    if job.reference_set is None:
        return job, None
    shown = labelled(work, heartbeat.vault, job.reference_set)
    schooling = Schooling(shown.images(), shown.labels, job.preprocessing, job.augmentation)
    training = Training(heartbeat, "reference", {"part": "reference"})
    network = training.resume(
        lambda checkpoint: train_reference(job.spec, split, schooling, work.training, training.on_step, checkpoint)
    )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in flat_state(network).items()}
    binding = Binding("reference", job.model_id, job.id)
    stored = heartbeat.vault.put(binding, [safetensors.torch.save(state)])
    return JOBS.keep_reference(session, work.vault, job, stored), network


def _networks(job: Job, vault: Vault, trained: SplitNetwork | None) -> Networks:
    belonging = job.target.belonging
    deposited_rows = rows_of(job.modules, belonging, vault)
    reference = trained
    if job.reference:
        reference_rows = rows_of(job.reference_modules, job.reference.belonging, vault)
        reference = open_whole(job.reference, reference_rows, vault)
    return Networks(
        target=open_whole(job.target, deposited_rows, vault),
        fresh=untrained(job.spec, belonging.split, seed=0),
        original=open_whole(job.original, deposited_rows, vault) if job.original else None,
        before=open_whole(job.before, deposited_rows, vault) if job.before else None,
        module=artifacts.load_module(vault.read(job.module), belonging) if job.module else None,
        reference=reference,
        served=job.served.open(vault) if job.served else None,
    )
