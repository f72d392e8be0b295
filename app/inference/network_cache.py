"""Networks and deposit modules, opened from the vault and cached up to a number of bytes."""

import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from cachetools import LRUCache
from torch import Tensor, nn

from app.hardenings.jobs import ServedNetwork
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
class CachedNetwork:
    """bytes: the size before fusing, as stored in the vault; the size in memory is about the same."""

    network: nn.Module
    bytes: int


class NetworkCache:
    """Thread-safe. If several threads need the same network, one opens it and only those threads wait for it."""

    def __init__(self, vault: Vault, compute: Compute, max_bytes: int) -> None:
        self._vault, self._compute = vault, compute
        self._cache: LRUCache[str, CachedNetwork] = LRUCache(max_bytes, getsizeof=lambda cached: cached.bytes)
        self._opening: dict[str, Future[nn.Module]] = {}
        self._lock = threading.Lock()

    def network(self, stored: ServedNetwork, preprocessing: Preprocessing) -> SplitNetwork:
        """The fused network. Raises `VaultDamaged`."""
        return self._open(
            _network_key(stored),
            lambda: stored.open(self._vault),
            lambda network: fuse_network(network, self._example(preprocessing)),
        )

    def module(self, network: ServedNetwork, stored: StoredObject, preprocessing: Preprocessing) -> DepositModule:
        """The fused deposit module. Raises `VaultDamaged`."""
        return self._open(
            stored.name,
            lambda: artifacts.load_module(self._vault.read(stored), network.belonging),
            lambda module: fuse_module(module, self._example(preprocessing)),
        )

    def has_all(self, network: ServedNetwork, modules: Iterable[StoredObject]) -> bool:
        """Whether the network and all the modules are cached."""
        with self._lock:
            return all(key in self._cache for key in (_network_key(network), *(module.name for module in modules)))

    def object_names(self) -> set[str]:
        """The names of the vault's objects that the cached networks came from."""
        with self._lock:
            return {name for key in self._cache for name in key.split("/")}

    def drop(self, object_names: Collection[str]) -> None:
        """Remove the networks that came from one of these objects."""
        with self._lock:
            for key in [key for key in self._cache if not set(object_names).isdisjoint(key.split("/"))]:
                del self._cache[key]

    def _example(self, preprocessing: Preprocessing) -> Tensor:
        images = example_input(preprocessing.channels, (preprocessing.height, preprocessing.width))
        return images.to(self._compute.device).contiguous(memory_format=self._compute.memory_format)

    def _open(self, key: str, load: Callable[[], NetworkT], fuse: Callable[[NetworkT], NetworkT]) -> NetworkT:
        with self._lock:
            if (cached := self._cache.get(key)) is not None:
                return cached.network  # type: ignore[return-value]
            is_first = key not in self._opening
            opening = self._opening.setdefault(key, Future())
        if is_first:
            try:
                network = self._compute.place(load())
                size = _bytes_of(network)
                opened = CachedNetwork(fuse(network), size)
            except BaseException as error:
                with self._lock:
                    del self._opening[key]
                opening.set_exception(error)
            else:
                with self._lock:
                    del self._opening[key]
                    if opened.bytes <= self._cache.maxsize:
                        self._cache[key] = opened
                opening.set_result(opened.network)
        return opening.result()  # type: ignore[return-value]


def _network_key(stored: ServedNetwork) -> str:
    return "/".join(stored.object_names)


def _bytes_of(network: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
