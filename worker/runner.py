"""Runs one job of any kind: claims it, does the work, and gives every fault the right ending."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.base.errors import Problem
from app.jobs.machine import Cancelled, Claim, JobMachine, LeaseLost, reason_of
from app.vault.service import VaultDamaged
from lirf_core.compute import memory_errors
from lirf_core.training import DepositDiverged
from worker.heartbeat import TookTooLong
from worker.work import Work

log = logging.getLogger(__name__)

PASSING = (SQLAlchemyError, OSError, VaultDamaged)  # another attempt may go well
FINAL = (DepositDiverged, TookTooLong, Problem, ValueError)  # their text says what to do

JobT = TypeVar("JobT", bound=Claim)
CarryOut = Callable[[Work, Session, JobT], None]
HandleFault = Callable[[Work, Session, JobT, Exception], bool]


def run(
    work: Work, machine: JobMachine[Any, JobT], job_id: str, carry_out: CarryOut[JobT], handle: HandleFault[JobT]
) -> JobT | None:
    """Claim a job, carry it out, or end it with the reason. Returns the job; None if there was nothing to do.

    handle: ends the job after a fault that its kind knows how to end; returns whether it did. Raises what is a fault of
    the code, and what stops the process, after the job was ended or given back.
    """
    with work.database.session() as session:
        job = machine.claim(session, work.vault, work.settings, job_id)
        if job is None:
            return None
        with _until_it_is_taken_away(work, machine, session, job):
            try:
                with memory_errors():
                    carry_out(work, session, job)
            except (Cancelled, LeaseLost):
                raise
            except Exception as error:
                session.rollback()
                if not handle(work, session, job, error):
                    _end(work, machine, session, job, error)
            except BaseException:  # the worker is being stopped
                session.rollback()
                with _until_it_is_taken_away(work, machine, session, job):
                    machine.give_back(session, work.vault, work.settings, job, None)
                raise
        return job


def _end(work: Work, machine: JobMachine[Any, JobT], session: Session, job: JobT, error: Exception) -> None:
    """Raises the error again if nobody expected it."""
    if isinstance(error, PASSING):
        log.error("%s %s was interrupted", machine.name, job.id, exc_info=error)
        trouble = f"{type(error).__name__}: {_first_line(error)}"
        machine.give_back(session, work.vault, work.settings, job, trouble)
    elif isinstance(error, FINAL):
        machine.fail(session, work.vault, job, str(error))
    else:
        with _until_it_is_taken_away(work, machine, session, job):
            machine.fail(session, work.vault, job, reason_of(error))
        raise error


@contextmanager
def _until_it_is_taken_away(work: Work, machine: JobMachine[Any, JobT], session: Session, job: JobT) -> Iterator[None]:
    """Stop quietly if somebody cancels the job or another worker gets it."""
    try:
        yield
    except Cancelled:
        with suppress(LeaseLost):
            machine.confirm_cancelled(session, work.vault, job)
    except LeaseLost as lost:
        log.warning("%s", lost)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
