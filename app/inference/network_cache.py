"""Networks and deposit modules that were opened from the vault, in a cache bounded in bytes."""

import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from cachetools import LRUCache
from torch import Tensor, nn

from app.registry.service import StoredNetwork
from app.vault.service import StoredObject, Vault
from lirf_core import artifacts
from lirf_core.compute import Compute
from lirf_core.fuse import fuse_module, fuse_network
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.network import SplitNetwork
from lirf_core.pruning import example_input
from lirf_core.recover import DepositModule

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(frozen=True)
class Opened:
    """bytes: of the part as it was stored in the vault; in memory it takes about as many."""

    part: nn.Module
    bytes: int


class NetworkCache:
    """Thread-safe. However many ask for a part, one of them opens it, and the others wait for that one alone."""

    def __init__(self, vault: Vault, compute: Compute, max_bytes: int) -> None:
        self._vault, self._compute = vault, compute
        self._opened: LRUCache[str, Opened] = LRUCache(max_bytes, getsizeof=lambda one: one.bytes)
        self._opening: dict[str, Future[nn.Module]] = {}
        self._lock = threading.Lock()

    def network(self, stored: StoredNetwork, size: Preprocessing) -> SplitNetwork:
        """Raises `VaultDamaged`."""
        return self._part(
            _network_key(stored),
            lambda: stored.open(self._vault),
            lambda one: fuse_network(one, self._example(size)),
        )

    def module(self, network: StoredNetwork, sealed: StoredObject, size: Preprocessing) -> DepositModule:
        """Raises `VaultDamaged`."""
        return self._part(
            sealed.name,
            lambda: artifacts.load_module(self._vault.read(sealed), network.belonging),
            lambda one: fuse_module(one, self._example(size)),
        )

    def have(self, network: StoredNetwork, modules: Iterable[StoredObject]) -> bool:
        """Whether all of them are open."""
        with self._lock:
            return all(key in self._opened for key in (_network_key(network), *(sealed.name for sealed in modules)))

    def names(self) -> set[str]:
        """Of the vault's objects that parts were opened from."""
        with self._lock:
            return {name for key in self._opened for name in key.split("/")}

    def drop(self, names: Collection[str]) -> None:
        """Forgets whatever was opened from one of these objects."""
        with self._lock:
            for key in [key for key in self._opened if not set(names).isdisjoint(key.split("/"))]:
                del self._opened[key]

    def _example(self, size: Preprocessing) -> Tensor:
        images = example_input(size.channels, (size.height, size.width)).to(self._compute.device)
        return images.contiguous(memory_format=self._compute.memory_format)

    def _part(self, key: str, load: Callable[[], NetworkT], fuse: Callable[[NetworkT], NetworkT]) -> NetworkT:
        with self._lock:
            if (opened := self._opened.get(key)) is not None:
                return opened.part  # type: ignore[return-value]
            is_first = key not in self._opening
            opening = self._opening.setdefault(key, Future())
        if is_first:
            try:
                part = self._compute.place(load())
                size = _bytes_of(part)
                opened = Opened(fuse(part), size)
            except BaseException as error:
                with self._lock:
                    del self._opening[key]
                opening.set_exception(error)
            else:
                with self._lock:
                    del self._opening[key]
                    if opened.bytes <= self._opened.maxsize:
                        self._opened[key] = opened
                opening.set_result(opened.part)
        return opening.result()  # type: ignore[return-value]


def _network_key(stored: StoredNetwork) -> str:
    return f"{stored.upper.name}/{stored.lower.name}"


def _bytes_of(part: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in part.state_dict().values())
