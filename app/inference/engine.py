"""Assembles recover networks on demand, asks them, and lets no answer leave that is over."""

import asyncio
import time
from collections.abc import Callable, Sequence

from anyio.to_thread import run_sync
from torch import Tensor

from app.base.database import Database
from app.base.errors import Problem
from app.deposits import service as deposits
from app.inference.batches import Batches, BatchLimits, Question
from app.inference.network_cache import NetworkCache
from app.inference.views import Asked, View, Views
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault, VaultDamaged
from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule


class DeadlinePassed(Problem):
    status, slug, title = 504, "deadline-passed", "The answer would come too late"


class InferenceEngine:
    """Thread-safe. No answer leaves before the database has said that its view still holds.

    seconds: what a request may take where it does not ask for less.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        compute: Compute,
        cache_bytes: int,
        limits: BatchLimits | None = None,
        seconds: float = 30,
    ) -> None:
        self._database = database
        self._seconds = seconds
        self.views = Views(database)
        self._cache = NetworkCache(vault, compute, cache_bytes)
        self._batches = Batches(compute, self.views.hold, limits)

    def close(self) -> None:
        self._batches.close()

    async def answer(
        self,
        model_name: str,
        asked: Asked,
        inputs_for: Callable[[View], Tensor],
        seconds: float | None = None,
        is_quick: bool = False,
    ) -> tuple[View, Tensor]:
        """The view that holds when the answer leaves, and its raw logits.

        What was revoked, has expired or was deposited during the computation is computed again without it.
        `inputs_for` gives float32 (B, C, H, W), normalised; it runs in another thread unless it `is_quick`.
        Raises `DeadlinePassed`, `Overloaded`, and what `Views.read` and `inputs_for` raise.
        """
        allowed = min(seconds or self._seconds, self._seconds)
        end, loop = time.monotonic() + allowed, asyncio.get_running_loop()
        while True:
            question = self._at_hand(model_name, asked, inputs_for, loop) if is_quick else None
            if question is None:
                question = await run_sync(self._question, model_name, asked, inputs_for, loop)
            self._batches.ask(question)
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    logits = await question.answered()
            except TimeoutError:
                raise DeadlinePassed(
                    f"the request was not answered within {allowed:g} seconds; send it again, with a longer `timeout` "
                    "or fewer images."
                ) from None
            if logits is not None:
                return question.view, logits

    def prepare(self, deposit_ids: Sequence[str]) -> None:
        """Opens the deposit modules, so that a withdrawal is only given when it can be answered.

        Raises `UnknownDeposit`, `NotDeposited`, `VaultDamaged`.
        """
        parts = self._stored_modules(deposit_ids)
        while True:
            try:
                for network, sealed, size in parts:
                    self._cache.network(network, size)
                    self._cache.module(network, sealed, size)
            except VaultDamaged:
                tried, parts = parts, self._stored_modules(deposit_ids)
                if parts == tried:  # nothing took their place meanwhile
                    raise
            else:
                return

    def drop_shredded(self) -> None:
        """Nothing whose key was destroyed stays in memory; to be called from time to time."""
        if names := self._cache.names() | self.views.names():
            with self._database.reading() as session:
                gone = vaults.shredded_names(session, names)
            self._cache.drop(gone)
            self.views.drop(gone)

    def _question(
        self,
        model_name: str,
        asked: Asked,
        inputs_for: Callable[[View], Tensor],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Question:
        """Of the view that was kept, where one is: whether it is over shows when it is answered."""
        kept = self.views.kept(model_name, asked)
        while True:
            view = kept or self.views.read(model_name, asked)
            try:
                return Question(view, *self._parts_of(view), inputs_for(view), loop)
            except Problem:
                # What was kept may be over. A deposit that was published since then scrubbed the older modules.
                if kept is None and self.views.hold([view]) == [True]:
                    raise
                kept = None

    def _at_hand(
        self,
        model_name: str,
        asked: Asked,
        inputs_for: Callable[[View], Tensor],
        loop: asyncio.AbstractEventLoop,
    ) -> Question | None:
        """A question that needs neither database nor vault: to hand it to a thread takes longer than to make it."""
        view = self.views.kept(model_name, asked)
        if view is None or not self._cache.have(view.network, [module.stored for module in view.modules]):
            return None
        try:
            return Question(view, *self._parts_of(view), inputs_for(view), loop)
        except Problem:
            return None  # which may be because the view is over

    def _parts_of(self, view: View) -> tuple[SplitNetwork, list[DepositModule]]:
        size = view.preprocessing
        modules = [self._cache.module(view.network, module.stored, size) for module in view.modules]
        return self._cache.network(view.network, size), modules

    def _stored_modules(self, deposit_ids: Sequence[str]) -> list[tuple[StoredNetwork, StoredObject, Preprocessing]]:
        found = []
        with self._database.reading() as session:
            for deposit_id in deposit_ids:
                row = deposits.get(session, deposit_id)
                model = registry.by_id(session, row.model_id)
                network, size = registry.stored_network(session, model), registry.preprocessing_of(model)
                found.append((network, deposits.module(session, row), size))
        return found
