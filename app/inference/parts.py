"""Networks and deposit modules that were opened from the vault, in a cache bounded in bytes."""

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import TypeVar

from cachetools import LRUCache
from torch import nn

from app.registry.service import StoredNetwork
from app.vault.service import StoredObject, Vault
from lirf_core import artifacts
from lirf_core.compute import Compute
from lirf_core.lightening import lighten
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule

PartT = TypeVar("PartT", bound=nn.Module)


class Parts:
    """Thread-safe. However many ask for a part, one of them opens it, and the others wait for that one alone."""

    def __init__(self, vault: Vault, compute: Compute, max_bytes: int) -> None:
        self._vault, self._compute = vault, compute
        self._opened: LRUCache[str, nn.Module] = LRUCache(max_bytes, getsizeof=_bytes_of)
        self._opening: dict[str, Future[nn.Module]] = {}
        self._lock = threading.Lock()

    def network(self, stored: StoredNetwork) -> SplitNetwork:
        """Raises `VaultDamaged`."""

        def open_network() -> SplitNetwork:
            return lighten(self._compute.place(stored.open(self._vault)))

        return self._part(_network_key(stored), open_network)

    def module(self, network: StoredNetwork, sealed: StoredObject) -> DepositModule:
        """Raises `VaultDamaged`."""

        def open_module() -> DepositModule:
            module = artifacts.load_module(self._vault.read(sealed), network.belonging)
            return lighten(self._compute.place(module))

        return self._part(sealed.name, open_module)

    def names(self) -> set[str]:
        """Of the vault's objects that parts were opened from."""
        with self._lock:
            return {name for key in self._opened for name in key.split("/")}

    def drop(self, names: Collection[str]) -> None:
        """Forgets whatever was opened from one of these objects."""
        with self._lock:
            for key in [key for key in self._opened if not set(names).isdisjoint(key.split("/"))]:
                del self._opened[key]

    def _part(self, key: str, load: Callable[[], PartT]) -> PartT:
        with self._lock:
            if (part := self._opened.get(key)) is not None:
                return part  # type: ignore[return-value]
            is_first = key not in self._opening
            opening = self._opening.setdefault(key, Future())
        if is_first:
            try:
                opened = load()
            except BaseException as error:
                with self._lock:
                    del self._opening[key]
                opening.set_exception(error)
            else:
                with self._lock:
                    del self._opening[key]
                    if _bytes_of(opened) <= self._opened.maxsize:
                        self._opened[key] = opened
                opening.set_result(opened)
        return opening.result()  # type: ignore[return-value]


def _network_key(stored: StoredNetwork) -> str:
    return f"{stored.upper.name}/{stored.lower.name}"


def _bytes_of(part: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in part.state_dict().values())
