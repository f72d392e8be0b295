"""The inference engine: assembles recover networks on demand, computes in batches, and drops stale answers."""

import asyncio
import time
from collections.abc import Callable, Sequence

from anyio.to_thread import run_sync
from torch import Tensor

from app.base.database import Database
from app.base.errors import Problem
from app.deposits import service as deposits
from app.inference.batches import Batcher, BatchLimits, QueuedRequest
from app.inference.network_cache import NetworkCache
from app.inference.views import View, Views, ViewSelector
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault, VaultDamaged
from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule

InputsFor = Callable[[View], Tensor]


class DeadlinePassed(Problem):
    """No answer came within `timeout` or `LIRF_INFERENCE_SECONDS`. Allow more time, or send fewer images."""

    status, slug, title = 504, "deadline-passed", "The deadline passed"


class InferenceEngine:
    """Thread-safe. Before any answer leaves, the database confirms that its view is current.

    max_seconds: the deadline of a request that sets no shorter one.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        compute: Compute,
        cache_bytes: int,
        limits: BatchLimits | None = None,
        max_seconds: float = 30,
    ) -> None:
        self._database = database
        self._max_seconds = max_seconds
        self.views = Views(database)
        self._networks = NetworkCache(vault, compute, cache_bytes)
        self._batcher = Batcher(compute, self.views.are_current, limits)

    def close(self) -> None:
        self._batcher.close()

    async def answer(
        self,
        model_name: str,
        selector: ViewSelector,
        inputs_for: InputsFor,
        seconds: float | None = None,
        is_quick: bool = False,
    ) -> tuple[View, Tensor]:
        """The view that is current when the answer leaves, and its raw logits (B, classes).

        If a revocation, an expiry or a deposit makes the view stale meanwhile, the current view computes a new answer.
        inputs_for: gives float32 (B, C, H, W), normalised; runs in another thread unless it `is_quick`.
        seconds: the deadline, if it is shorter than the engine's.
        Raises `DeadlinePassed`, `Overloaded`, and what `Views.read` and `inputs_for` raise.
        """
        allowed = min(seconds or self._max_seconds, self._max_seconds)
        deadline, loop = time.monotonic() + allowed, asyncio.get_running_loop()
        while True:
            request = self._cached_request(model_name, selector, inputs_for, loop) if is_quick else None
            if request is None:
                request = await run_sync(self._request, model_name, selector, inputs_for, loop)
            self._batcher.submit(request)
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    logits = await request.result()
            except TimeoutError:
                raise DeadlinePassed(
                    f"The request was not answered within {allowed:g} seconds. "
                    "Send it again with a longer `timeout` or fewer images."
                ) from None
            if logits is not None:
                return request.view, logits

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
            with self._database.reading() as session:
                shredded = vaults.shredded_names(session, names)
            self._networks.drop(shredded)
            self.views.drop(shredded)

    def _request(
        self,
        model_name: str,
        selector: ViewSelector,
        inputs_for: InputsFor,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> QueuedRequest:
        """A request for the cached view, if there is one. A stale view is found out after the computation."""
        cached = self.views.cached(model_name, selector)
        while True:
            view = cached or self.views.read(model_name, selector)
            try:
                return QueuedRequest(view, *self._networks_of(view), inputs_for(view), loop)
            except Problem:
                # The cached view may be stale: a deposit replaces the modules of earlier deposits.
                if cached is None and self.views.are_current([view]) == [True]:
                    raise
                cached = None

    def _cached_request(
        self, model_name: str, selector: ViewSelector, inputs_for: InputsFor, loop: asyncio.AbstractEventLoop
    ) -> QueuedRequest | None:
        """A request from the caches only: making one is faster than handing it to a thread. None if it needs more."""
        view = self.views.cached(model_name, selector)
        if view is None or not self._networks.has_all(view.network, [module.stored for module in view.modules]):
            return None
        try:
            return QueuedRequest(view, *self._networks_of(view), inputs_for(view), loop)
        except Problem:
            return None  # a stale view may be the cause

    def _networks_of(self, view: View) -> tuple[SplitNetwork, list[DepositModule]]:
        preprocessing = view.preprocessing
        modules = [self._networks.module(view.network, module.stored, preprocessing) for module in view.modules]
        return self._networks.network(view.network, preprocessing), modules

    def _stored_modules(self, deposit_ids: Sequence[str]) -> list[tuple[StoredNetwork, StoredObject, Preprocessing]]:
        modules = []
        with self._database.reading() as session:
            for deposit_id in deposit_ids:
                row = deposits.get(session, deposit_id)
                model = registry.by_id(session, row.model_id)
                network, preprocessing = registry.stored_network(session, model), registry.preprocessing_of(model)
                modules.append((network, deposits.module(session, row), preprocessing))
        return modules
