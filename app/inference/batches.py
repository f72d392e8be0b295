"""Batching: requests wait while the device is busy, and are then computed together if they have the same target.

Requests of different views can share a batch.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from cachetools import LRUCache
from torch import Tensor

from app.base.errors import Problem
from app.base.settings import Settings
from app.inference.views import View
from lirf_core.compute import Compute
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule, RecoverNetwork, answers

RETRY_SECONDS = 1
BATCH_SECONDS = 0.1  # of computing, so that nobody waits much longer for a device that computes for somebody else
MAX_UNKNOWN_VALUES = 1 << 19  # in a batch of a network that has computed none yet; an image of 224 x 224 has 150,528
MAX_CPU_VALUES = 1 << 20  # in a batch on the CPU, where larger batches of large images are no faster
MAX_CALLERS = 1024  # whose turns are remembered

Result = Tensor | Exception | None  # None: the view became stale


class InvalidLogits(Problem):
    """The network's logits of an image are not finite, so it has no class. Register the model with other weights."""

    status, slug, title = 500, "invalid-logits", "The network's answer is not a number"


class Overloaded(Problem):
    """The queue (`LIRF_INFERENCE_QUEUE` images) is full, or the service stops. Send it again after `Retry-After`."""

    status, slug, title = 503, "overloaded", "Too many images are waiting"


@dataclass(frozen=True)
class BatchLimits:
    """images: of one batch; a larger request is computed in pieces. waiting: images in the queue. values: of the images
    of one batch, since a network's own take up to fifty times as much memory.

    threads: of the CPU. A batch that is computed alone uses all of them. Batches that are computed at the same time
    share them equally: threads of one batch wait for the slowest, whose core also serves requests.
    """

    images: int = 16
    waiting: int = 1024
    threads: int = 1
    values: int | None = None

    @classmethod
    def from_settings(cls, settings: Settings, device: torch.device) -> "BatchLimits":
        """A GPU is fastest with large batches, one at a time."""
        is_cpu = device.type == "cpu"
        images = settings.inference_batch or (16 if is_cpu else 64)
        threads = (settings.inference_threads or torch.get_num_threads()) if is_cpu else 1
        return cls(images, settings.inference_queue, threads, MAX_CPU_VALUES if is_cpu else None)


@dataclass(frozen=True, eq=False)
class QueuedRequest:
    """inputs: float32 (B, C, H, W), normalised. loop: the event loop that sets `logits`, if any. caller: a key's id.

    logits: raw float32 (B, classes) on the CPU; None if the view became stale during the computation.
    """

    view: View
    target: SplitNetwork
    modules: Sequence[DepositModule]
    inputs: Tensor
    loop: asyncio.AbstractEventLoop | None = None
    caller: str = ""
    logits: Future[Tensor | None] = field(default_factory=Future)

    @cached_property
    def network(self) -> RecoverNetwork:
        view = self.view
        return RecoverNetwork(self.target, self.modules, view.network.belonging.upper_digest, view.preserved_classes)

    async def result(self) -> Tensor | None:
        """The logits, awaited on `loop`. Cancelling this call cancels the request."""
        assert self.loop
        is_done = asyncio.Event()
        self.logits.add_done_callback(lambda _: is_done.set())
        try:
            await is_done.wait()
        except asyncio.CancelledError:
            self.logits.cancel()
            raise
        if self.logits.cancelled():
            raise Overloaded(
                "The service is shutting down. Send the request to another replica, or again later.",
                retry_after=RETRY_SECONDS,
            )
        return self.logits.result()


class Batcher:
    """A queue of requests, and threads that compute one batch each.

    Callers take turns: a batch begins with the oldest request of the caller whose last batch is the longest ago.
    are_current: says of each view whether it is current; called once per batch, after the computation.
    """

    def __init__(
        self, compute: Compute, are_current: Callable[[Sequence[View]], list[bool]], limits: BatchLimits | None = None
    ) -> None:
        self._compute, self._are_current, self._limits = compute, are_current, limits or BatchLimits()
        self._queue: deque[QueuedRequest] = deque()
        self._queued_images = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._busy_threads = 0
        self._batches = 0
        self._last_batch: LRUCache[str, int] = LRUCache(MAX_CALLERS)  # of each caller
        self._image_seconds: WeakKeyDictionary[SplitNetwork, float] = WeakKeyDictionary()
        names = [f"inference-{number}" for number in range(self._limits.threads)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def images_at_once(self, view: View, target: SplitNetwork) -> int:
        """How many images one batch may have: what this network computes in `BATCH_SECONDS`, at least one."""
        seconds, size = self._image_seconds.get(target), view.preprocessing
        values = size.channels * size.height * size.width
        fitting = MAX_UNKNOWN_VALUES // values if seconds is None else int(BATCH_SECONDS / max(seconds, 1e-9))
        if self._limits.values is not None:
            fitting = min(fitting, self._limits.values // values)
        return max(1, min(fitting, self._limits.images))

    def submit(self, request: QueuedRequest, is_begun: bool = False) -> None:
        """Queue a request. An empty queue takes a request of any size. Raises `Overloaded`.

        is_begun: other images of the same request were computed, so that it is not refused any more.
        """
        with self._changed:
            if self._is_full_for(request):
                self._set_queue(queued for queued in self._queue if not queued.logits.cancelled())
            if not is_begun and self._is_full_for(request):
                raise Overloaded(
                    f"{self._queued_images} images are already waiting, and the queue has room for "
                    f"{self._limits.waiting}. Send the request again later, or to another replica.",
                    retry_after=RETRY_SECONDS,
                )
            self._queue.append(request)
            self._queued_images += len(request.inputs)
            self._changed.notify()

    def close(self) -> None:
        """Cancel what is queued, and wait until the running batches end."""
        with self._changed:
            self._is_closed = True
            for request in self._queue:
                request.logits.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _set_queue(self, requests: Iterable[QueuedRequest]) -> None:
        self._queue = deque(requests)
        self._queued_images = sum(len(request.inputs) for request in self._queue)

    def _is_full_for(self, request: QueuedRequest) -> bool:
        return bool(self._queue) and self._queued_images + len(request.inputs) > self._limits.waiting

    def _work(self) -> None:
        own_threads = 0
        while batch := self._next_batch():
            share = max(1, self._limits.threads // self._busy_threads)
            if self._compute.device.type == "cpu" and share != own_threads:
                torch.set_num_threads(own_threads := share)  # for the calling thread only
            try:
                results = self._without_stale(batch, map(_finite, self._logits_of(batch)))
            except Exception as error:
                results = [error] * len(batch)
            _deliver(zip(batch, results, strict=True))
            with self._changed:
                self._busy_threads -= 1

    def _next_batch(self) -> list[QueuedRequest]:
        """The request whose turn it is, and others that have the same target and fit in. Empty after `close`."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._is_closed)
                if self._is_closed:
                    return []
                batch: list[QueuedRequest] = []
                rest: list[QueuedRequest] = []
                images = limit = 0
                for request in self._by_turns():
                    fits = not batch or (request.target is batch[0].target and images + len(request.inputs) <= limit)
                    if not fits:
                        rest.append(request)
                    elif request.logits.set_running_or_notify_cancel():  # False: the request was cancelled
                        batch.append(request)
                        images += len(request.inputs)
                        limit = limit or self.images_at_once(request.view, request.target)
                self._set_queue(rest)
                if batch:
                    self._busy_threads += 1
                    self._batches += 1
                    self._last_batch[batch[0].caller] = self._batches
                    return batch

    def _by_turns(self) -> Iterator[QueuedRequest]:
        """The queue, but first the request whose turn it is."""
        first = min(self._queue, key=lambda request: self._last_batch.get(request.caller, 0), default=None)
        if first is not None:
            yield first
        yield from (request for request in self._queue if request is not first)

    @torch.inference_mode()
    def _logits_of(self, batch: Sequence[QueuedRequest]) -> list[Tensor]:
        """The logits of each request, (B, classes)."""
        by_view: dict[View, list[QueuedRequest]] = {}
        for request in batch:
            by_view.setdefault(request.view, []).append(request)
        networks = [requests[0].network for requests in by_view.values()]
        inputs = [torch.cat([request.inputs for request in requests]) for requests in by_view.values()]
        if len(inputs) == 1:  # a single request may be larger than a batch
            pieces = torch.split(inputs[0], self._limits.images)
            outputs = [torch.cat([self._forward(networks, [piece])[0] for piece in pieces])]
        else:
            outputs = self._forward(networks, inputs)
        logits = {
            request: rows
            for requests, output in zip(by_view.values(), outputs, strict=True)
            for request, rows in zip(
                requests, torch.split(output, [len(request.inputs) for request in requests]), strict=True
            )
        }
        return [logits[request] for request in batch]

    def _forward(self, networks: Sequence[RecoverNetwork], inputs: Sequence[Tensor]) -> list[Tensor]:
        device, memory_format = self._compute.device, self._compute.memory_format
        begun, count = time.thread_time(), sum(map(len, inputs))  # what other threads compute meanwhile is not counted
        images = [tensor.to(device).contiguous(memory_format=memory_format) for tensor in inputs]
        with self._compute.autocast():
            logits = [logits.cpu() for logits in answers(networks, images)]
        seconds, target = (time.thread_time() - begun) / count, networks[0].target
        self._image_seconds[target] = min(seconds, self._image_seconds.get(target, seconds))  # the first time is slower
        return logits

    def _without_stale(self, batch: Sequence[QueuedRequest], results: Iterable[Result]) -> list[Result]:
        """The results, with None in place of those whose view is stale."""
        views = list({request.view for request in batch})
        is_current = dict(zip(views, self._are_current(views), strict=True))
        return [result if is_current[request.view] else None for request, result in zip(batch, results, strict=True)]


def _finite(logits: Tensor) -> Result:
    """The logits of a request, or the problem that they are."""
    if bool(logits.isfinite().all()):
        return logits
    return InvalidLogits(
        "The network's logits of an image are not finite numbers, so the image has no class. The weights are damaged: "
        "register the model again with the right ones."
    )


def _deliver(results: Iterable[tuple[QueuedRequest, Result]]) -> None:
    """Set the results, in their event loops.

    Each loop is woken once for the whole batch: a wake-up releases the GIL, and this thread must wait to get it back.
    """
    by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[QueuedRequest, Result]]] = {}
    for request, result in results:
        by_loop.setdefault(request.loop, []).append((request, result))
    for loop, own in by_loop.items():
        if loop is None:
            _set_results(own)
        else:
            with suppress(RuntimeError):  # the loop is closed, so nobody waits any more
                loop.call_soon_threadsafe(_set_results, own)


def _set_results(results: Iterable[tuple[QueuedRequest, Result]]) -> None:
    for request, result in results:
        if isinstance(result, Exception):
            request.logits.set_exception(result)
        else:
            request.logits.set_result(result)
