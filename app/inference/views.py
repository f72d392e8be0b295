"""Views: what a model answers with, and for whom. Read from the database, and cached while the generation holds."""

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakKeyDictionary

from cachetools import LRUCache

from app.base import tokens
from app.base.database import Database, now
from app.deposits import service as deposits
from app.deposits.service import StoredModule
from app.hardenings import service as hardenings
from app.hardenings.jobs import ServedNetwork
from app.registry import service as registry
from app.withdrawals import service as withdrawals
from lirf_core.images.preprocessing import Preprocessing

MAX_VIEWS = 1024


@dataclass(frozen=True)
class ViewSelector:
    """What selects a model's view: tokens of held withdrawals, only one withdrawal, or only the target network."""

    tokens: tuple[str, ...] = ()
    withdrawal_id: str | None = None
    is_target_only: bool = False


SERVED = ViewSelector()


@dataclass(frozen=True, eq=False)
class View:
    """What a model answers with: a revision, and the modules of the deposits that are withdrawn or restored.

    network: without modules, the hardened network, if there is one and the policy has it served. Otherwise the working
    target.

    masked_classes: indices of deposited classes that no module answers for.
    """

    model_id: str
    model_name: str
    class_names: list[str]
    preprocessing: Preprocessing
    network: ServedNetwork
    modules: tuple[StoredModule, ...]
    withdrawals: tuple[str, ...]
    masked_classes: tuple[int, ...]
    generation: int
    valid_until: datetime | None

    @property
    def preserved_classes(self) -> list[int]:
        """The indices of the classes that the target network answers for."""
        deposited = {*self.masked_classes, *(index for module in self.modules for index in module.classes)}
        return [index for index in range(len(self.class_names)) if index not in deposited]


class Views:
    """Reads and caches views. Thread-safe.

    A cached view may be stale; `are_current` checks it before any answer leaves.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: LRUCache[tuple[object, ...], View] = LRUCache(MAX_VIEWS)
        self._confirmed: WeakKeyDictionary[View, float] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def cached(self, model_name: str, selector: ViewSelector) -> View | None:
        """The view that was read last."""
        with self._lock:
            return self._cache.get(_key(model_name, selector))

    def read(self, model_name: str, selector: ViewSelector = SERVED) -> View:
        """The current view, from the database. Every view has the restored deposits, except the target's own.

        Raises `UnknownModel`, `WeightsMissing`, and what `withdrawals.visible` raises.
        """
        with self._database.reading() as session:
            model = registry.get_ready(session, model_name)
            is_bare = selector.is_target_only
            active = [] if is_bare else withdrawals.visible(session, model, selector.tokens, selector.withdrawal_id)
            restored = [] if is_bare else deposits.restored_ids(session, model.id)
            withdrawn = withdrawals.deposits_of(session, active).values()
            deposit_ids = sorted({*restored, *(deposit_id for ids in withdrawn for deposit_id in ids)})
            modules = deposits.modules(session, deposit_ids)
            answering = {index for module in modules for index in module.classes}
            masked = [index for index in registry.deposited(session, model.id) if index not in answering]
            hardened = None if modules else hardenings.served(session, model)
            view = View(
                model_id=model.id,
                model_name=model.name,
                class_names=model.class_names,
                preprocessing=registry.preprocessing_of(model),
                network=hardened or registry.stored_network(session, model),
                modules=tuple(modules),
                withdrawals=tuple(row.id for row in active),
                masked_classes=tuple(masked),
                generation=model.generation,
                valid_until=min((row.expires_at for row in active if row.expires_at), default=None),
            )
        with self._lock:
            self._cache[_key(model_name, selector)] = view
        return view

    def are_current(self, views: Sequence[View]) -> list[bool]:
        """Whether each view still is what its model answers with, by one indexed read. Stale views leave the cache."""
        begun = time.monotonic()
        with self._database.reading() as session:
            generations = registry.generations(session, {view.model_id for view in views})
        current = [generations.get(view.model_id) == view.generation and not _is_expired(view, now()) for view in views]
        stale = {view for view, is_current in zip(views, current, strict=True) if not is_current}
        with self._lock:
            self._confirmed.update({view: begun for view in views if view not in stale})
        if stale:
            with self._lock:
                for key in [key for key, view in self._cache.items() if view in stale]:
                    del self._cache[key]
        return current

    def seconds_left(self, view: View) -> float:
        """How long an answer of this view may still leave without another `are_current`; not above 0 if it may not.

        A revocation returns only when this has run out for every view that was confirmed before (`await_answers`).
        """
        with self._lock:
            confirmed = self._confirmed.get(view)
        if confirmed is None or _is_expired(view, now()):
            return 0.0
        return confirmed + registry.ANSWER_SECONDS - time.monotonic()

    def object_names(self) -> set[str]:
        """The names of the vault's objects that cached views refer to; a view holds their wrapped keys, too."""
        with self._lock:
            return set().union(*map(_object_names, self._cache.values()))

    def drop(self, object_names: Collection[str]) -> None:
        """Remove the cached views that refer to one of these objects."""
        with self._lock:
            for key in [key for key, view in self._cache.items() if not _object_names(view).isdisjoint(object_names)]:
                del self._cache[key]


def _is_expired(view: View, at: datetime) -> bool:
    return view.valid_until is not None and at >= view.valid_until


def _object_names(view: View) -> set[str]:
    return {*view.network.object_names, *(module.stored.name for module in view.modules)}


def _key(model_name: str, selector: ViewSelector) -> tuple[object, ...]:
    """The key of a cached view. It has the tokens' digests, not the tokens."""
    return model_name, tuple(map(tokens.digest, selector.tokens)), selector.withdrawal_id, selector.is_target_only
