"""Trainings within a job: their losses, and the checkpoints from which another worker goes on."""

import io
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from app.jobs.machine import JobMachine
from app.vault.objects import StoreUnavailable
from app.vault.service import Binding, StoredObject, VaultDamaged
from lirf_core.checkpoints import ForeignCheckpoint
from lirf_core.training import Progress
from worker.heartbeat import Heartbeat
from worker.work import Work

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class TrainingJob(Protocol):
    """A claimed job that trains. `checkpoints` (by part) and the `curve` of losses come from earlier attempts."""

    @property
    def model_id(self) -> str: ...
    @property
    def checkpoints(self) -> dict[str, StoredObject]: ...
    @property
    def curve(self) -> dict[str, list[float]]: ...


class Curve:
    """The losses of a training over its steps, thinned out so that each heartbeat can carry all of it."""

    MAX_POINTS = 120

    def __init__(self, earlier: dict[str, list[float]]) -> None:
        """earlier: the curve of an earlier attempt."""
        self._points = [dict(zip(earlier, values, strict=True)) for values in zip(*earlier.values(), strict=True)]

    def add(self, step: int, losses: dict[str, float]) -> None:
        while self._points and self._points[-1]["step"] >= step:  # an earlier attempt went on after its checkpoint
            self._points.pop()
        self._points.append({"step": step, **losses})
        if len(self._points) > self.MAX_POINTS:
            del self._points[1::2]

    def values(self) -> dict[str, list[float]]:
        """The values of each loss by its name, and `step`, equally many of each."""
        names = self._points[0] if self._points else {}
        return {name: [float(f"{point[name]:.4g}") for point in self._points] for name in names}


class TrainingHeartbeat(Heartbeat[Any]):
    """A heartbeat that also writes down the losses and keeps checkpoints."""

    def __init__(self, work: Work, machine: JobMachine[Any, Any], job: Any, shorten: str) -> None:
        """job: a `Claim` that is a `TrainingJob`."""
        super().__init__(work, machine, job, shorten)
        self.curve = Curve(job.curve)
        self._plan_checkpoint()

    def values(self) -> dict[str, Any]:
        curve = self.curve.values()
        return {"curve": curve} if curve else {}

    @property
    def is_checkpoint_due(self) -> bool:
        return time.monotonic() >= self._next_checkpoint

    def keep_checkpoint(self, part: str, checkpoint: bytes) -> None:
        """Store a checkpoint: from now on, the part goes on from it."""
        binding = Binding("checkpoint", self._job.model_id, self._job.id)
        stored = self.vault.put(binding, [checkpoint])
        with self._work.database.session() as session:
            self._machine.keep_checkpoint(session, self.vault, self._work.settings, self._job, part, stored)
        self._plan_checkpoint()

    def checkpoint_of(self, part: str) -> bytes | None:
        """The part's last checkpoint of an earlier attempt. None: there is none, or it does not open."""
        stored = self._job.checkpoints.get(part)
        if stored is None:
            return None
        try:
            checkpoint = io.BytesIO()
            self.vault.copy_to(stored, checkpoint)
        except VaultDamaged as damage:
            log.warning("job %s starts over: %s", self._job.id, damage.detail)
            return None
        except StoreUnavailable:
            raise
        except OSError as error:
            log.warning("job %s starts over: its checkpoint cannot be read: %s", self._job.id, error.strerror)
            return None
        log.info("job %s goes on from its last checkpoint", self._job.id)
        return checkpoint.getvalue()

    def _plan_checkpoint(self) -> None:
        self._next_checkpoint = time.monotonic() + self._work.settings.checkpoint_seconds


class Training:
    """One training within a job, which goes on from its last checkpoint.

    part: its name among the job's checkpoints. progress: what it shows besides epochs and steps. is_followed: another
    training of the job comes after it. is_plotted: its losses go into the job's curve.
    """

    def __init__(
        self,
        heartbeat: TrainingHeartbeat,
        part: str,
        progress: dict[str, Any],
        *,
        is_followed: bool = False,
        is_plotted: bool = False,
    ) -> None:
        self._heartbeat, self._part, self._progress = heartbeat, part, progress
        self._is_followed, self._is_plotted = is_followed, is_plotted

    def resume(self, run: Callable[[bytes | None], Result]) -> Result:
        """Run it from its last checkpoint, or from the start."""
        checkpoint = self._heartbeat.checkpoint_of(self._part)
        if checkpoint is not None:
            try:
                return run(checkpoint)
            except ForeignCheckpoint as error:
                log.warning("the training starts over: %s", error)
        return run(None)

    def on_step(self, step: Progress) -> None:
        if step.step in (1, step.steps):  # even a training of a second gets its first and last point
            self._plot(step)
        self._heartbeat.advance(lambda: self._where(step))
        is_done = step.step == step.steps
        if self._heartbeat.is_checkpoint_due or (is_done and self._is_followed):
            self._heartbeat.keep_checkpoint(self._part, step.checkpoint())

    def _where(self, step: Progress) -> dict[str, Any]:
        losses = self._plot(step)
        counts = {name: getattr(step, name) for name in ("epoch", "epochs", "step", "steps")}
        return {**self._progress, **counts, "losses": losses}

    def _plot(self, step: Progress) -> dict[str, float]:
        losses = step.loss_values()
        if self._is_plotted:
            self._heartbeat.curve.add(step.step, losses)
        return losses
