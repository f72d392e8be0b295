"""What the evidence task does: claim an examination, open the networks, carry it out, keep what was found."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import torch
from opentelemetry import trace
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.base.database import Database
from app.base.errors import Problem
from app.base.settings import Settings
from app.datasets import service as datasets
from app.evidence import jobs
from app.evidence.jobs import Destroyed, Job, NoLongerHeld
from app.vault.service import StoredObject, Vault, VaultDamaged
from lirf_core import artifacts
from lirf_core.architectures import build
from lirf_core.compute import OutOfMemory, memory_errors
from lirf_core.evidence.examination import PARTS, Case, Evidence, Examination, Networks
from lirf_core.evidence.images import Labelled
from worker.deposit import Work
from worker.heartbeat import Pulse, TookTooLong

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


def examine(work: Work, evidence_id: str) -> None:
    """Claims, carries out and keeps one examination, or ends it with the reason."""
    with work.database.session() as session:
        job = jobs.claim(session, work.settings, evidence_id)
        if job is None:
            return
        try:
            _end(work, session, job)
        except NoLongerHeld as lost:
            log.warning("%s", lost)


def _end(work: Work, session: Session, job: Job) -> None:
    try:
        with memory_errors(), tracer.start_as_current_span("examine", record_exception=False) as span:
            span.set_attributes({"lirf.evidence": job.id, "lirf.deposit": job.deposit_id, "lirf.attempt": job.attempt})
            found = _carry_out(work, job)
        jobs.finish(session, job, asdict(found))
    except Destroyed as destroyed:
        log.warning("%s: it begins again with what is left", destroyed)
        session.rollback()
        jobs.begin_again(session, job)
    except (SQLAlchemyError, OSError, VaultDamaged) as error:
        session.rollback()
        if isinstance(error, VaultDamaged) and jobs.is_destroyed(session, job):  # since the last heartbeat
            log.warning("evidence %s begins again with what is left", job.id)
            jobs.begin_again(session, job)
            return
        log.exception("evidence %s was interrupted", job.id)
        failure = f"{type(error).__name__}: the worker's log says more."
        jobs.give_back(session, job, failure, work.settings.max_attempts)
    except (TookTooLong, Problem, ValueError) as error:
        jobs.fail(session, job, str(error))
    except OutOfMemory:
        log.exception("evidence %s needs more memory", job.id)
        jobs.fail(session, job, "the device has too little memory to train beside what it holds; give it more.")
    except NoLongerHeld:
        raise
    except Exception as error:
        with suppress(NoLongerHeld):
            jobs.fail(session, job, f"{type(error).__name__} in the worker; its log says more.")
        raise
    except BaseException:  # the worker is being stopped
        session.rollback()
        with suppress(NoLongerHeld):
            jobs.give_back(session, job, None, work.settings.max_attempts)
        raise


def _carry_out(work: Work, job: Job) -> Evidence:
    pulse = Pulse(work.vault, work.settings, _beat(work.database, work.settings, job))
    pulse.beat({})
    networks = _networks(job, pulse.vault)
    held_out = _labelled(job.evaluation_set, pulse.vault, work.settings)
    case = Case(
        job.class_names,
        job.deposited,
        job.preserved,
        held_out.of_classes([*job.preserved, *job.deposited]),
        _labelled(job.members, pulse.vault, work.settings) if job.members else None,
        job.preprocessing,
        job.augmentation,
    )
    told = {part: {"part": part, "number": number + 1, "parts": len(PARTS)} for number, part in enumerate(PARTS)}

    def on_step(part: str) -> None:
        pulse.advanced(lambda: told[part])

    found = Examination(networks, case, work.training, work.inference, on_step).run()
    if job.members is None and job.membership:
        found = replace(found, membership=job.membership)
        found.missing["membership"] = (
            f"Measured when the deposit was made, of revision {job.deposit_revision}; "
            "then its deposit set was shredded."
        )
    return found


def _networks(job: Job, vault: Vault) -> Networks:
    belonging = job.target.belonging
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = build(job.spec, belonging.split)
    return Networks(
        target=job.target.open(vault),
        fresh=fresh,
        original=job.original.open(vault) if job.original else None,
        module=artifacts.load_module(vault.read(job.module), belonging) if job.module else None,
        reference=job.reference.open(vault) if job.reference else None,
    )


def _labelled(stored: StoredObject, vault: Vault, settings: Settings) -> Labelled:
    images = datasets.load(vault, stored, settings.spool)
    return Labelled(images.images, images.labels)


def _beat(database: Database, settings: Settings, job: Job) -> Callable[[dict[str, Any]], None]:
    def beat(progress: dict[str, Any]) -> None:
        with database.session() as session:
            jobs.heartbeat(session, settings, job, progress)

    return beat
