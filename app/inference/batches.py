"""Questions wait while the device is busy, and are computed together: whatever their views, if they ask one target."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from app.base.errors import Problem
from app.base.settings import Settings
from app.inference.views import View
from lirf_core.compute import Compute
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule, RecoverNetwork, answers

RETRY_SECONDS = 1


class Overloaded(Problem):
    status, slug, title = 503, "overloaded", "Too many images wait for the device"


@dataclass(frozen=True)
class BatchLimits:
    """images: computed at once; what asks for more is computed in pieces. waiting: images in the queue.

    threads: of a CPU. While one batch is computed, it has them all; while several are, each has its share, because
    threads that share a batch wait for the slowest of them, which is the one whose core also answers requests.
    """

    images: int = 16
    waiting: int = 1024
    threads: int = 1

    @classmethod
    def of(cls, settings: Settings, device: torch.device) -> "BatchLimits":
        """A GPU likes large batches and has one at a time."""
        is_cpu = device.type == "cpu"
        images = settings.inference_batch or (16 if is_cpu else 64)
        threads = (settings.inference_threads or torch.get_num_threads()) if is_cpu else 1
        return cls(images, settings.inference_queue, threads)


@dataclass(frozen=True, eq=False)
class Question:
    """inputs: float32 (B, C, H, W), normalised. `answer` is raw float32 logits (B, classes) on the CPU.

    It is None where the view was over before the answer could leave. It is set on `loop`, where there is one.
    """

    view: View
    target: SplitNetwork
    modules: Sequence[DepositModule]
    inputs: Tensor
    loop: asyncio.AbstractEventLoop | None = None
    answer: Future[Tensor | None] = field(default_factory=Future)

    @cached_property
    def network(self) -> RecoverNetwork:
        view = self.view
        return RecoverNetwork(self.target, self.modules, view.network.belonging.upper_digest, view.preserved)

    async def answered(self) -> Tensor | None:
        """The answer, awaited on `loop`; who is cancelled meanwhile gives the question up."""
        assert self.loop
        is_done = asyncio.Event()
        self.answer.add_done_callback(lambda _: is_done.set())
        try:
            await is_done.wait()
        except asyncio.CancelledError:
            self.answer.cancel()
            raise
        if self.answer.cancelled():
            raise Overloaded(
                "the service ends now; ask another replica, or again in a while.", retry_after=RETRY_SECONDS
            )
        return self.answer.result()


Outcome = Tensor | Exception | None


class Batches:
    """Some threads compute, one batch each, and look whether the views still hold before they answer.

    hold: which views still hold; asked once for a batch, after it was computed.
    """

    def __init__(
        self, compute: Compute, hold: Callable[[Sequence[View]], list[bool]], limits: BatchLimits | None = None
    ) -> None:
        self._compute, self._hold, self._limits = compute, hold, limits or BatchLimits()
        self._waiting: deque[Question] = deque()
        self._images = 0  # that wait
        self._is_closed = False
        self._changed = threading.Condition()
        self._busy = 0
        names = [f"inference-{number}" for number in range(self._limits.threads)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def ask(self, question: Question) -> None:
        """Raises `Overloaded`; one question is taken however many images it has, where none waits."""
        with self._changed:
            if self._is_full_for(question):
                self._keep(one for one in self._waiting if not one.answer.cancelled())
            if self._is_full_for(question):
                raise Overloaded(
                    f"{self._images} images wait already; send the request again in a while, or ask another replica.",
                    retry_after=RETRY_SECONDS,
                )
            self._waiting.append(question)
            self._images += len(question.inputs)
            self._changed.notify()

    def close(self) -> None:
        """What waits is given up."""
        with self._changed:
            self._is_closed = True
            for question in self._waiting:
                question.answer.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _keep(self, waiting: Iterable[Question]) -> None:
        self._waiting = deque(waiting)
        self._images = sum(len(question.inputs) for question in self._waiting)

    def _is_full_for(self, question: Question) -> bool:
        return bool(self._waiting) and self._images + len(question.inputs) > self._limits.waiting

    def _work(self) -> None:
        has = 0
        while batch := self._next():
            share = max(1, self._limits.threads // self._busy)
            if self._compute.device.type == "cpu" and share != has:
                torch.set_num_threads(has := share)  # of this thread
            try:
                outcomes = self._holding(batch, self._computed(batch))
            except Exception as error:
                outcomes = [error] * len(batch)
            _tell(zip(batch, outcomes, strict=True))
            with self._changed:
                self._busy -= 1

    def _next(self) -> list[Question]:
        """The oldest question and those behind it that ask the same target; none once this is closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return []
                batch: list[Question] = []
                left: list[Question] = []
                images = 0
                for question in self._waiting:
                    fits = not batch or (
                        question.target is batch[0].target and images + len(question.inputs) <= self._limits.images
                    )
                    if not fits:
                        left.append(question)
                    elif question.answer.set_running_or_notify_cancel():  # else nobody waits for it any more
                        batch.append(question)
                        images += len(question.inputs)
                self._keep(left)
                if batch:
                    self._busy += 1
                    return batch

    @torch.inference_mode()
    def _computed(self, batch: Sequence[Question]) -> list[Tensor]:
        """The logits of each question."""
        of_view: dict[View, list[Question]] = {}
        for question in batch:
            of_view.setdefault(question.view, []).append(question)
        networks = [questions[0].network for questions in of_view.values()]
        inputs = [torch.cat([question.inputs for question in questions]) for questions in of_view.values()]
        if len(inputs) == 1:  # one question may be larger than a batch
            pieces = torch.split(inputs[0], self._limits.images)
            logits = [torch.cat([self._logits(networks, [piece])[0] for piece in pieces])]
        else:
            logits = self._logits(networks, inputs)
        found = {
            question: rows
            for questions, together in zip(of_view.values(), logits, strict=True)
            for question, rows in zip(
                questions, torch.split(together, [len(one.inputs) for one in questions]), strict=True
            )
        }
        return [found[question] for question in batch]

    def _logits(self, networks: Sequence[RecoverNetwork], inputs: Sequence[Tensor]) -> list[Tensor]:
        placed = [one.to(self._compute.device).contiguous(memory_format=self._compute.memory_format) for one in inputs]
        with self._compute.autocast():
            return [logits.cpu() for logits in answers(networks, placed)]

    def _holding(self, batch: Sequence[Question], computed: Sequence[Tensor]) -> list[Outcome]:
        """What was computed, where its view still holds."""
        views = list({question.view for question in batch})
        holds = dict(zip(views, self._hold(views), strict=True))
        return [logits if holds[question.view] else None for question, logits in zip(batch, computed, strict=True)]


def _tell(outcomes: Iterable[tuple[Question, Outcome]]) -> None:
    """Wakes each loop once for a batch: to wake one lets go of Python's lock, for which this thread then waits."""
    of_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[Question, Outcome]]] = {}
    for question, outcome in outcomes:
        of_loop.setdefault(question.loop, []).append((question, outcome))
    for loop, own in of_loop.items():
        if loop is None:
            _settle(own)
        else:
            with suppress(RuntimeError):  # it is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, own)


def _settle(outcomes: Iterable[tuple[Question, Outcome]]) -> None:
    for question, outcome in outcomes:
        if isinstance(outcome, Exception):
            question.answer.set_exception(outcome)
        else:
            question.answer.set_result(outcome)
