"""Processes that tests start, stop and kill: commands as users start them, and forks.

A fork starts in milliseconds, because its parent process has imported everything.
"""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
import torch
import typer  # noqa: F401 - imported here so that forks that run commands start faster
import uvicorn

from app import serving
from app.base.settings import Settings
from app.deposits.tables import DepositRow, State
from app.main import application
from app.telemetry import logs
from lirf_client import Client  # noqa: F401
from tests.forks import forks
from worker.deposit import work_on
from worker.work import Work


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition is still false after {seconds:g} s"
        time.sleep(0.1)


class Running(Protocol):
    pid: int

    def signal(self, number: int) -> None: ...

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the process has ended."""

    def has_ended(self) -> bool: ...


class Command:
    """`python -m ...`, with its child processes."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        with log.open("a") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command], env=environment, stdout=file, stderr=file, start_new_session=True
            )
        self.pid = self._process.pid

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: float | None = None) -> None:
        self._process.wait(seconds)

    def has_ended(self) -> bool:
        return self._process.poll() is not None


class Fork:
    """A function that runs in its own process, with its own environment."""

    def __init__(
        self,
        run: Callable[..., None],
        arguments: list[object],
        environment: dict[str, str],
        log: Path,
        errors: Path | None = None,
    ) -> None:
        """errors: the file for stderr, if it is not `log`."""
        self._process = forks().Process(target=_run, args=(run, arguments, environment, log, errors or log))
        self._process.start()
        self.pid = self._process.pid or 0

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float | None = None) -> None:
        self._process.join(seconds)

    def has_ended(self) -> bool:
        return self._process.exitcode is not None

    @property
    def code(self) -> int | None:
        return self._process.exitcode


def _run(run: Callable[..., None], arguments: list[object], environment: dict[str, str], *logs: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, log in zip((1, 2), logs, strict=True):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    if threads := environment.get("OMP_NUM_THREADS"):  # torch read it at import, before the fork
        torch.set_num_threads(int(threads))
    run(*arguments)


def serve(port: int) -> None:
    uvicorn.run(application(), port=port, log_level="warning", **serving.OPTIONS)


def cli(*arguments: str) -> None:
    """`python -m app ...`."""
    sys.argv = ["lirf", *arguments]
    runpy.run_module("app", run_name="__main__")


def work() -> None:
    """A worker that polls the database for queued deposits. Celery would start a process for each deposit."""
    logs.configure(settings := Settings())
    work = Work(settings)
    busy = sa.select(DepositRow.model_id).where(DepositRow.state == State.RUNNING)
    free = sa.select(DepositRow.id).where(DepositRow.state == State.QUEUED, DepositRow.model_id.not_in(busy))
    while True:
        with work.database.reading() as session:
            deposit_id = session.scalar(free.order_by(DepositRow.id).limit(1))
        if deposit_id:
            work_on(work, deposit_id)
        else:
            time.sleep(0.2)
