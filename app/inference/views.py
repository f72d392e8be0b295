"""What a model answers with, for whom: read from the database, and kept for as long as its generation holds."""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from cachetools import LRUCache

from app.base import tokens
from app.base.database import Database, now
from app.deposits import service as deposits
from app.deposits.service import StoredModule
from app.registry import service as registry
from app.registry.service import StoredNetwork
from app.withdrawals import service as withdrawals
from lirf_core.images.preprocessing import Preprocessing

KEPT = 1024


@dataclass(frozen=True)
class Asked:
    """What decides on the view: tokens of held withdrawals; one withdrawal alone; or the target and nothing else."""

    tokens: tuple[str, ...] = ()
    withdrawal_id: str | None = None
    is_bare: bool = False


SERVED = Asked()


@dataclass(frozen=True, eq=False)
class View:
    """What a model answers with now: a revision and the deposits that are withdrawn or restored."""

    model_id: str
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


class Views:
    """Thread-safe. What is kept may be over: nobody is answered with it before `hold` has said that it is not."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: LRUCache[tuple[object, ...], View] = LRUCache(KEPT)
        self._lock = threading.Lock()

    def kept(self, model_name: str, asked: Asked) -> View | None:
        """What was read last."""
        with self._lock:
            return self._kept.get(_key(model_name, asked))

    def read(self, model_name: str, asked: Asked = SERVED) -> View:
        """What the model shows who asks now. What is restored is in every view but a bare one.

        Raises `UnknownModel`, `WeightsMissing`, and what `withdrawals.visible` raises.
        """
        with self._database.reading() as session:
            model = registry.get_ready(session, model_name)
            active = [] if asked.is_bare else withdrawals.visible(session, model, asked.tokens, asked.withdrawal_id)
            restored = [] if asked.is_bare else deposits.restored_ids(session, model.id)
            lent = withdrawals.deposits_of(session, active).values()
            shown = sorted({*restored, *(deposit_id for ids in lent for deposit_id in ids)})
            modules = deposits.modules(session, shown)
            answering = {index for module in modules for index in module.classes}
            masked = [index for index in registry.deposited(session, model.id) if index not in answering]
            view = View(
                model_id=model.id,
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
        with self._lock:
            self._kept[_key(model_name, asked)] = view
        return view

    def hold(self, views: Sequence[View]) -> list[bool]:
        """Whether each is still what its model shows: one indexed read for all. What is over is kept no longer."""
        with self._database.reading() as session:
            generations = registry.generations(session, {view.model_id for view in views})
        at = now()
        holding = [
            generations.get(view.model_id) == view.generation and (view.valid_until is None or at < view.valid_until)
            for view in views
        ]
        over = {view for view, holds in zip(views, holding, strict=True) if not holds}
        if over:
            with self._lock:
                for key in [key for key, view in self._kept.items() if view in over]:
                    del self._kept[key]
        return holding

    def names(self) -> set[str]:
        """Of the vault's objects that kept views name; with them go the objects' wrapped keys."""
        with self._lock:
            return set().union(*map(_names_of, self._kept.values()))

    def drop(self, names: Collection[str]) -> None:
        """Keeps no view that names one of these objects."""
        with self._lock:
            for key in [key for key, view in self._kept.items() if not _names_of(view).isdisjoint(names)]:
                del self._kept[key]


def _names_of(view: View) -> set[str]:
    return {view.network.upper.name, view.network.lower.name, *(module.stored.name for module in view.modules)}


def _key(model_name: str, asked: Asked) -> tuple[object, ...]:
    """Without the tokens themselves."""
    return model_name, tuple(map(tokens.digest, asked.tokens)), asked.withdrawal_id, asked.is_bare
