"""Processes that die before a durable step: a commit, an object that gets its name, or one that is removed.

To die after a step is to die before the next.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.orm import Session

from app.base.settings import Settings
from app.vault.objects import ObjectStore
from tests.app.service import Service
from tests.forks import forks
from worker import heartbeat
from worker.work import Work


def steps_until_death(service: Service, act: Callable[..., object], *arguments: str, step: int | None) -> int | None:
    """How many durable steps `act(work, *arguments)` takes in a process that dies before this one, or at its end.

    None: it raised an error.
    """
    (told := service.settings.folder.parent / "steps").unlink(missing_ok=True)
    process = forks().Process(target=_act, args=(service.settings.model_dump_json(), act, arguments, step, told))
    process.start()
    process.join()
    return int(told.read_text()) if told.exists() else None


def _act(settings: str, act: Callable[..., object], arguments: tuple[str, ...], step: int | None, told: Path) -> None:
    heartbeat.HEARTBEAT_SECONDS = math.inf  # those that time brings would not come at the same steps again
    work = Work(Settings.model_validate_json(settings))
    steps = _Steps(step, told)
    act(work, *arguments)
    steps.die()


class _Steps:
    """Counts the durable steps of this process, and ends it before one of them."""

    def __init__(self, last: int | None, told: Path) -> None:
        self._count, self._last, self._told = 0, last, told
        event.listen(Session, "before_commit", lambda _: self.begin())
        for name in ("store", "remove"):
            setattr(ObjectStore, name, self._counted(getattr(ObjectStore, name)))

    def begin(self) -> None:
        if self._count + 1 == self._last:
            self.die()
        self._count += 1

    def die(self) -> None:
        self._told.write_text(str(self._count))
        os._exit(1)

    def _counted(self, act: Callable[..., None]) -> Callable[..., None]:
        def acted(*arguments: object) -> None:
            self.begin()
            act(*arguments)

        return acted
