"""What running work writes to the database: that it is alive, and how far it is."""

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from app.jobs.machine import Claim, JobMachine
from worker.work import Work

HEARTBEAT_SECONDS = 1.0

JobT = TypeVar("JobT", bound=Claim)


class TookTooLong(Exception):
    """The work ran for longer than `time_limit_seconds`."""


class Heartbeat(Generic[JobT]):
    """Renews the job's lease, but only when the work has advanced, and at most once a second.

    Advancing raises what `JobMachine.heartbeat` does, and `TookTooLong`, if the work must stop. Reading from `vault` or
    writing to it advances the work, too.
    """

    def __init__(self, work: Work, machine: JobMachine[Any, JobT], job: JobT, shorten: str) -> None:
        """shorten: how a caller can ask for less work, for the message of `TookTooLong`."""
        self._work, self._machine, self._job, self._shorten = work, machine, job, shorten
        self.vault = work.vault.watched(lambda: self.advance(lambda: self._progress))
        self._next_beat, self._progress = 0.0, dict[str, Any]()
        self._ends = time.monotonic() + work.settings.time_limit_seconds

    def phase(self, name: str) -> Callable[[], None]:
        """Write down that a phase of the work begins. Call the result for each piece of it that is done."""
        self.beat({"phase": name})
        return lambda: self.advance(lambda: {"phase": name})

    def advance(self, progress: Callable[[], dict[str, Any]]) -> None:
        """Another piece of work is done. `progress` is only called when a heartbeat is due."""
        if time.monotonic() >= self._next_beat:
            self.beat(progress())

    def beat(self, progress: dict[str, Any]) -> None:
        """Renew the lease now."""
        if time.monotonic() > self._ends:
            raise TookTooLong(
                f"It ran for longer than {self._work.settings.time_limit_seconds / 3600:g} hours. {self._shorten}, use "
                "a faster device, or raise LIRF_TIME_LIMIT_SECONDS."
            )
        self._progress = progress
        with self._work.database.session() as session:
            values = {"progress": progress, **self.values()}
            self._machine.heartbeat(session, self._work.settings, self._job, **values)
        self._next_beat = time.monotonic() + HEARTBEAT_SECONDS

    def values(self) -> dict[str, Any]:
        """What else each heartbeat writes down."""
        return {}
