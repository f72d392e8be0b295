"""Assembles recover networks on demand and asks them. Opened parts stay in a cache bounded in bytes."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import torch
from cachetools import LRUCache
from torch import Tensor, nn

from app.database import Database, now
from app.deposits import service as deposits
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.vault import service as vaults
from app.vault.service import StoredObject, Vault, VaultDamaged
from app.withdrawals import service as withdrawals
from lirf_core import artifacts
from lirf_core.compute import Compute
from lirf_core.data import Preprocessing
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule, RecoverNetwork


@dataclass(frozen=True)
class StoredModule:
    stored: StoredObject
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """What decides on the view: tokens of held withdrawals; one withdrawal alone; or the target and nothing else."""

    tokens: tuple[str, ...] = ()
    withdrawal_id: str | None = None
    is_bare: bool = False


SERVED = Asked()


@dataclass(frozen=True)
class View:
    """What a model answers with now: a revision and the deposits that are withdrawn or restored."""

    model_name: str
    class_names: list[str]
    preprocessing: Preprocessing
    network: StoredNetwork
    modules: tuple[StoredModule, ...]
    withdrawals: tuple[str, ...]
    masked: tuple[int, ...]
    generation: int
    valid_until: datetime | None

    @property
    def preserved(self) -> list[int]:
        """The classes that the target network answers for."""
        deposited = {*self.masked, *(index for module in self.modules for index in module.classes)}
        return [index for index in range(len(self.class_names)) if index not in deposited]


class InferenceEngine:
    """Thread-safe. What may be shown is read from the database on each request: there is no cache to wait for."""

    def __init__(self, database: Database, vault: Vault, compute: Compute, cache_bytes: int) -> None:
        self._database, self._vault, self.compute = database, vault, compute
        self._parts: LRUCache[str, nn.Module] = LRUCache(cache_bytes, getsizeof=_bytes_of)
        self._lock = threading.Lock()

    def view(self, model_name: str, asked: Asked = SERVED) -> View:
        """What the model shows who asks now. What is restored is in every view but a bare one.

        Raises `UnknownModel`, `WeightsMissing`, and what `withdrawals.shown` raises.
        """
        with self._database.reading() as session:
            model = registry.get_ready(session, model_name)
            active = [] if asked.is_bare else withdrawals.shown(session, model, asked.tokens, asked.withdrawal_id)
            lent = {deposit_id for row in active for deposit_id in withdrawals.deposit_ids(session, row)}
            restored = [] if asked.is_bare else deposits.restored_ids(session, model.id)
            shown = sorted(lent.union(restored))
            rows = deposits.of_ids(session, shown)
            modules = [
                StoredModule(deposits.module(session, rows[i]), tuple(deposits.class_indices(session, i)))
                for i in shown
            ]
            answering = {index for module in modules for index in module.classes}
            masked = [
                row.class_index
                for row in registry.classes(session, model.id)
                if row.deposit_id and row.class_index not in answering
            ]
            return View(
                model_name=model.name,
                class_names=model.class_names,
                preprocessing=registry.preprocessing_of(model),
                network=registry.stored_network(session, model),
                modules=tuple(modules),
                withdrawals=tuple(row.id for row in active),
                masked=tuple(masked),
                generation=model.generation,
                valid_until=min((row.expires_at for row in active if row.expires_at), default=None),
            )

    def answer(self, model_name: str, asked: Asked, inputs_for: Callable[[View], Tensor]) -> tuple[View, Tensor]:
        """The view that holds when the answer leaves, and its raw logits.

        What was revoked, has expired or was deposited during the computation is computed again without it.
        `inputs_for` gives float32 (B, C, H, W), normalised. Raises what `view` and `inputs_for` raise.
        """
        while True:
            view = self.view(model_name, asked)
            inputs = inputs_for(view)
            try:
                logits = self.logits(view, inputs)
            except VaultDamaged:
                # A deposit that was published meanwhile scrubbed the older modules, and the old ones are gone.
                if self._is_current(view):
                    raise
                continue
            if self._is_current(view):
                return view, logits

    def _is_current(self, view: View) -> bool:
        with self._database.reading() as session:
            is_unchanged = registry.get(session, view.model_name).generation == view.generation
        return is_unchanged and (view.valid_until is None or now() < view.valid_until)

    def prepare(self, deposit_ids: Sequence[str]) -> None:
        """Opens the deposit modules, so that a withdrawal is only given when it can be answered.

        Raises `UnknownDeposit`, `NotDeposited`, `VaultDamaged`.
        """
        parts = self._stored_modules(deposit_ids)
        while True:
            try:
                for network, sealed in parts:
                    self._network(network)
                    self._module(network, sealed)
            except VaultDamaged:
                tried, parts = parts, self._stored_modules(deposit_ids)
                if parts == tried:  # nothing took their place meanwhile
                    raise
            else:
                return

    def _stored_modules(self, deposit_ids: Sequence[str]) -> list[tuple[StoredNetwork, StoredObject]]:
        with self._database.reading() as session:
            rows = [deposits.get(session, deposit_id) for deposit_id in deposit_ids]
            return [
                (registry.stored_network(session, registry.by_id(session, row.model_id)), deposits.module(session, row))
                for row in rows
            ]

    @torch.inference_mode()
    def logits(self, view: View, inputs: Tensor) -> Tensor:
        """inputs: float32 (B, C, H, W), normalised. Returns raw float32 logits (B, classes) on the CPU."""
        network = RecoverNetwork(
            self._network(view.network),
            [self._module(view.network, module.stored) for module in view.modules],
            view.network.belonging.upper_digest,
            view.preserved,
        )
        with self.compute.autocast():
            placed = inputs.to(self.compute.device).contiguous(memory_format=self.compute.memory_format)
            logits: Tensor = network(placed).float().cpu()
        return logits

    def drop_shredded(self) -> None:
        """Nothing whose key was destroyed stays in memory; to be called from time to time."""
        with self._lock:
            names_of = {key: set(key.split("/")) for key in self._parts}
        if not names_of:
            return
        with self._database.reading() as session:
            gone = vaults.shredded_names(session, set().union(*names_of.values()))
        with self._lock:
            for key in [key for key, names in names_of.items() if names & gone]:
                self._parts.pop(key, None)

    def _network(self, stored: StoredNetwork) -> SplitNetwork:
        part = self._part(f"{stored.upper.name}/{stored.lower.name}", lambda: stored.open(self._vault))
        assert isinstance(part, SplitNetwork)
        return part

    def _module(self, network: StoredNetwork, sealed: StoredObject) -> DepositModule:
        part = self._part(sealed.name, lambda: artifacts.load_module(self._vault.read(sealed), network.belonging))
        assert isinstance(part, DepositModule)
        return part

    def _part(self, key: str, load: Callable[[], nn.Module]) -> nn.Module:
        with self._lock:  # also makes many that ask for one part wait for one loader
            part = self._parts.get(key)
            if part is None:
                part = self.compute.place(load())
                if _bytes_of(part) <= self._parts.maxsize:
                    self._parts[key] = part
            return part


def _bytes_of(part: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in part.state_dict().values())
