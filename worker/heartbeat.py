"""What running work tells the database: that it lives, how far it is, and where a deposit could go on."""

import io
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from app.base.database import Database
from app.base.settings import Settings
from app.deposits import jobs
from app.deposits.checkpoints import TARGET
from app.deposits.jobs import Job
from app.vault.objects import StoreAway
from app.vault.service import Binding, Vault, VaultDamaged
from lirf_core.checkpoints import ForeignCheckpoint
from lirf_core.training import Progress

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 1.0

Result = TypeVar("Result")


class TookTooLong(Exception):
    """The work ran for longer than it may."""


class Curve:
    """The losses of a training as they went, for people to look at: so few that a heartbeat can tell them all."""

    MOST = 120

    def __init__(self, told: dict[str, list[float]]) -> None:
        """told: of an earlier attempt."""
        self._points = [dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)]

    def add(self, step: int, losses: dict[str, float]) -> None:
        while self._points and self._points[-1]["step"] >= step:  # an earlier attempt went on after its checkpoint
            self._points.pop()
        self._points.append({"step": step, **losses})
        if len(self._points) > self.MOST:
            del self._points[1::2]

    def told(self) -> dict[str, list[float]]:
        """The values of each loss by its name, and `step`, as many of each."""
        names = self._points[0] if self._points else {}
        return {name: [float(f"{point[name]:.4g}") for point in self._points] for name in names}


class Pulse:
    """Renews the lease, but only when the work has advanced, and at most once a second.

    What advances raises what `renew` does, or `TookTooLong`, where the work is to end. What `vault` reads and writes is
    an advance.
    """

    SHORTER = "examine it with fewer held-out images"

    def __init__(self, vault: Vault, settings: Settings, renew: Callable[[dict[str, Any]], None]) -> None:
        self._settings, self._renew = settings, renew
        self.vault = vault.watched(lambda: self.advanced(lambda: self._told))
        self._next_beat, self._told = 0.0, dict[str, Any]()
        self._ends = time.monotonic() + settings.time_limit_seconds

    def phase(self, name: str) -> Callable[[], None]:
        """Says where the work is; call the result for each piece of the phase that is done."""
        self.beat({"phase": name})
        return lambda: self.advanced(lambda: {"phase": name})

    def advanced(self, progress: Callable[[], dict[str, Any]]) -> None:
        """Another piece is done; `progress` is asked for where it is to be told."""
        if time.monotonic() >= self._next_beat:
            self.beat(progress())

    def beat(self, progress: dict[str, Any]) -> None:
        if time.monotonic() > self._ends:
            limit = f"{self._settings.time_limit_seconds / 3600:g} hours"
            raise TookTooLong(
                f"it ran for longer than {limit}; {self.SHORTER}, use a faster device, or raise "
                "LIRF_TIME_LIMIT_SECONDS."
            )
        self._told = progress
        self._renew(progress)
        self._next_beat = time.monotonic() + HEARTBEAT_SECONDS


class DepositPulse(Pulse):
    """Also tells the losses, and keeps checkpoints. What advances raises `Cancelled` or `LeaseLost`, too."""

    SHORTER = "ask for fewer epochs or a smaller deposit set"

    def __init__(self, database: Database, vault: Vault, settings: Settings, job: Job) -> None:
        super().__init__(vault, settings, self._heartbeat)
        self._database, self._job = database, job
        self.curve = Curve(job.curve)
        self._next_checkpoint = time.monotonic() + settings.checkpoint_seconds

    def _heartbeat(self, progress: dict[str, Any]) -> None:
        with self._database.session() as session:
            jobs.heartbeat(session, self._settings, self._job, progress, self.curve.told())

    @property
    def is_checkpoint_due(self) -> bool:
        return time.monotonic() >= self._next_checkpoint

    def keep(self, part: str, checkpoint: bytes) -> None:
        """Stores a checkpoint; from now on the part goes on from it."""
        binding = Binding("checkpoint", self._job.model_id, self._job.id)
        stored = self.vault.put(binding, [checkpoint])
        with self._database.session() as session:
            jobs.keep_checkpoint(session, self.vault, self._settings, self._job, part, stored)
        self._next_checkpoint = time.monotonic() + self._settings.checkpoint_seconds

    def kept(self, part: str) -> bytes | None:
        """The part's last checkpoint of an earlier attempt; none where there is none, or none that opens."""
        stored = self._job.checkpoints.get(part)
        if stored is None:
            return None
        try:
            checkpoint = io.BytesIO()
            self.vault.copy_to(stored, checkpoint)
        except VaultDamaged as damage:
            log.warning("deposit %s starts over: %s", self._job.id, damage.detail)
            return None
        except StoreAway:
            raise
        except OSError as error:
            log.warning("deposit %s starts over: its checkpoint cannot be read: %s", self._job.id, error.strerror)
            return None
        log.info("deposit %s goes on from its last checkpoint", self._job.id)
        return checkpoint.getvalue()


class Training:
    """One training within a deposit: that of target and module, or the scrubbing of an older module."""

    def __init__(self, pulse: DepositPulse, part: str, told: dict[str, Any], is_followed: bool) -> None:
        """told: what its progress says besides the steps. is_followed: another one comes after it."""
        self._pulse, self._part, self._told, self._is_followed = pulse, part, told, is_followed

    def resumed(self, run: Callable[[bytes | None], Result]) -> Result:
        """Runs it from its last checkpoint, or from the start."""
        checkpoint = self._pulse.kept(self._part)
        if checkpoint is not None:
            try:
                return run(checkpoint)
            except ForeignCheckpoint as error:
                log.warning("the training starts over: %s", error)
        return run(None)

    def step(self, progress: Progress) -> None:
        if progress.step in (1, progress.steps):  # however soon it is over
            self._note(progress)
        self._pulse.advanced(lambda: self._progress(progress))
        is_done = progress.step == progress.steps
        if self._pulse.is_checkpoint_due or (is_done and self._is_followed):
            self._pulse.keep(self._part, progress.checkpoint())

    def _progress(self, progress: Progress) -> dict[str, Any]:
        losses = self._note(progress)
        where = {name: getattr(progress, name) for name in ("epoch", "epochs", "step", "steps")}
        return {**self._told, **where, "losses": losses}

    def _note(self, progress: Progress) -> dict[str, float]:
        """The losses, which go into the curve of the target's training."""
        losses = progress.loss_values()
        if self._part == TARGET:
            self._pulse.curve.add(progress.step, losses)
        return losses
