"""The inference engine: assembles recover networks on demand, computes in batches, and drops stale answers."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from torch import Tensor

from app.base.database import Database
from app.base.errors import Problem
from app.base.turns import Turns
from app.deposits import service as deposits
from app.inference.batches import Batcher, BatchLimits, QueuedRequest
from app.inference.network_cache import NetworkCache
from app.inference.views import View, Views, ViewSelector
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault, VaultDamaged
from lirf_core.compute import Compute
from lirf_core.images.decoding import GivenUp
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule

THREADS = 4  # that prepare requests: more than half of them never work for the same key

CONFIRMING = 2  # threads that ask whether views are current


@dataclass(frozen=True)
class Inputs:
    """The images of a request. A large request is prepared and computed in pieces, so that it takes little memory.

    read: gives float32 (stop - start, C, H, W), normalised, of the images from start to stop, at most `at_once` of
    them; it runs in another thread. is_quick: it may run on the event loop. given_up: set when nobody waits any more.
    """

    count: int
    read: Callable[[int, int], Tensor]
    at_once: int
    is_quick: bool = False
    given_up: GivenUp | None = None

    @classmethod
    def of(cls, images: Tensor) -> "Inputs":
        """Images that are prepared already."""
        return cls(len(images), lambda start, stop: images[start:stop], len(images), is_quick=True)


InputsFor = Callable[[View], Inputs]


@dataclass(frozen=True)
class _Opened:
    """A view with its networks and the request's images for it."""

    view: View
    target: SplitNetwork
    modules: Sequence[DepositModule]
    inputs: Inputs


class InferenceEngine:
    """Call `answer` on one event loop; the rest is thread-safe.

    Before any answer leaves, the database confirms that its view is current.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        compute: Compute,
        cache_bytes: int,
        limits: BatchLimits | None = None,
    ) -> None:
        self.database = database
        self.views = Views(database)
        self._networks = NetworkCache(vault, compute, cache_bytes)
        self._batcher = Batcher(compute, self.views.are_current, limits)
        self.turns = Turns("prepare", THREADS, of_one=THREADS // 2)
        self._confirming = CapacityLimiter(CONFIRMING)

    def close(self) -> None:
        self.turns.close()
        self._batcher.close()

    async def answer(
        self, model_name: str, selector: ViewSelector, inputs_for: InputsFor, caller: str = "", is_quick: bool = False
    ) -> tuple[View, Tensor]:
        """The view that is current when the answer leaves, and its raw logits (B, classes).

        If a revocation, an expiry or a deposit makes the view stale meanwhile, the current view computes a new answer.
        Cancelling this call stops the work.
        inputs_for: checks the request for this view; runs in another thread unless it `is_quick`.
        caller: a key's id. Callers take turns, with the threads that prepare images as with the device.
        Raises `Overloaded`, `TooBusy`, `InvalidLogits`, and what `Views.read` and `inputs_for` raise.
        """
        while True:
            opened = self._open_cached(model_name, selector, inputs_for) if is_quick else None
            if opened is None:
                opened = await self.turns.run(caller, self._open, model_name, selector, inputs_for)
            logits = await self._logits(opened, caller)
            if logits is not None:
                return opened.view, logits

    async def _logits(self, opened: _Opened, caller: str) -> Tensor | None:
        """The logits of all images; None if the view became stale. One piece is computed while the next is prepared."""
        loop, start, pieces = asyncio.get_running_loop(), 0, list[Tensor]()
        computing: QueuedRequest | None = None
        while start < opened.inputs.count or computing:
            images = None
            try:
                if start < opened.inputs.count:
                    images = await self._piece(opened, start, caller)
                if computing:
                    logits = await computing.result()
                    if logits is None:
                        return None
                    pieces.append(logits)
            except BaseException:
                if computing:
                    computing.logits.cancel()
                raise
            computing = None
            if images is not None:
                computing = QueuedRequest(opened.view, opened.target, opened.modules, images, loop, caller)
                self._batcher.submit(computing, is_begun=start > 0)
                start += len(images)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    async def _piece(self, opened: _Opened, start: int, caller: str) -> Tensor:
        """As many prepared images from `start` on as a batch may have."""
        inputs, parts, at_once = opened.inputs, list[Tensor](), self._batcher.images_at_once(opened.view, opened.target)
        end = min(inputs.count, start + at_once)
        while start < end:
            stop = min(end, start + inputs.at_once)
            if inputs.is_quick:
                parts.append(inputs.read(start, stop))
            else:
                try:
                    parts.append(await self.turns.run(caller, inputs.read, start, stop))
                except asyncio.CancelledError:
                    if inputs.given_up:
                        inputs.given_up.set()
                    raise
            start = stop
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    async def confirm(self, views: Sequence[View], is_new: bool = False) -> bool:
        """Whether answers of these views may leave now. is_new: ask the database even if it was asked just now."""
        if not is_new and all(self.views.seconds_left(view) > 0 for view in views):
            return True
        while all(await run_sync(self.views.are_current, views, limiter=self._confirming)):
            if all(self.views.seconds_left(view) > 0 for view in views):
                return True
        return False

    def prepare(self, deposit_ids: Sequence[str]) -> None:
        """Open the deposit modules and their networks, so that a withdrawal begins only if it can be answered.

        Raises `UnknownDeposit`, `NotDeposited`, `VaultDamaged`.
        """
        modules = self._stored_modules(deposit_ids)
        while True:
            try:
                for network, module, preprocessing in modules:
                    self._networks.network(network, preprocessing)
                    self._networks.module(network, module, preprocessing)
            except VaultDamaged:
                failed, modules = modules, self._stored_modules(deposit_ids)
                if modules == failed:  # no deposit has replaced the objects meanwhile
                    raise
            else:
                return

    def drop_shredded(self) -> None:
        """Remove from memory what was opened from shredded objects. Call this from time to time."""
        if names := self._networks.object_names() | self.views.object_names():
            with self.database.reading() as session:
                shredded = vaults.shredded_names(session, names)
            self._networks.drop(shredded)
            self.views.drop(shredded)

    def _open(self, model_name: str, selector: ViewSelector, inputs_for: InputsFor) -> _Opened:
        """The cached view, if there is one. A stale view is found out after the computation."""
        cached = self.views.cached(model_name, selector)
        while True:
            view = cached or self.views.read(model_name, selector)
            try:
                return _Opened(view, *self._networks_of(view), inputs_for(view))
            except Problem:
                # The cached view may be stale: a deposit replaces the modules of earlier deposits.
                if cached is None and self.views.are_current([view]) == [True]:
                    raise
                cached = None

    def _open_cached(self, model_name: str, selector: ViewSelector, inputs_for: InputsFor) -> _Opened | None:
        """From the caches only, which is faster than handing it to a thread. None if it needs more."""
        view = self.views.cached(model_name, selector)
        if view is None or not self._networks.has_all(view.network, [module.stored for module in view.modules]):
            return None
        try:
            return _Opened(view, *self._networks_of(view), inputs_for(view))
        except Problem:
            return None  # a stale view may be the cause

    def _networks_of(self, view: View) -> tuple[SplitNetwork, list[DepositModule]]:
        preprocessing = view.preprocessing
        modules = [self._networks.module(view.network, module.stored, preprocessing) for module in view.modules]
        return self._networks.network(view.network, preprocessing), modules

    def _stored_modules(self, deposit_ids: Sequence[str]) -> list[tuple[StoredNetwork, StoredObject, Preprocessing]]:
        modules = []
        with self.database.reading() as session:
            for deposit_id in deposit_ids:
                row = deposits.get(session, deposit_id)
                model = registry.by_id(session, row.model_id)
                network, preprocessing = registry.stored_network(session, model), registry.preprocessing_of(model)
                modules.append((network, deposits.module(session, row), preprocessing))
        return modules
