"""What tests begin with, made once per run of the tests and copied for each: a migrated database, keys of each role, a
model, finished deposits, an examination. A real worker makes them, on SQLite and on PostgreSQL.

pytest-xdist's processes share them: the first that needs one makes it.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import cache, partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.base.database import Database
from app.base.settings import Settings
from app.vault import erasure
from app.vault.tables import ErasureRow
from lirf_core.evidence.examination import Examination
from migrations import upgrade
from tests.app.factories import CLASSES
from tests.app.service import CLIENTS, Service, create_key, serving_on
from tests.databases import create_database
from tests.shared import VARIABLE, made_once
from worker.examination import examine


@dataclass(frozen=True)
class Beginning:
    """What a test begins with: an empty database, or as much as is True here, and finished deposits of the model birds.

    deposits: the classes of each, with a space between them. has_evaluation_set: six images of each class.
    is_trained: the network knows its classes, and the default policy bounds what a deposit may cost.
    is_examined: the last deposit has finished evidence, without the attacks that train.
    """

    has_keys: bool = True
    is_registered: bool = False
    is_trained: bool = False
    has_evaluation_set: bool = False
    deposits: tuple[str, ...] = ()
    is_examined: bool = False

    @property
    def previous(self) -> "Beginning | None":
        """What this one is made from, in one step."""
        if self.is_examined:
            return replace(self, is_examined=False)
        if self.deposits:
            return replace(self, deposits=self.deposits[:-1])
        if self.has_evaluation_set:
            return replace(self, has_evaluation_set=False)
        if self.is_registered:
            return replace(self, is_registered=False, is_trained=False)
        if self.has_keys:
            return replace(self, has_keys=False)
        return None


def begins_with(*deposits: str, **options: bool) -> pytest.MarkDecorator:
    """For a test of `service`: the model birds is registered, and these deposits are finished (`service.deposits`)."""
    return pytest.mark.begins_with(Beginning(is_registered=True, deposits=deposits, **options))


@dataclass(frozen=True)
class State:
    """url: of the database. folder: the service's. keys: by the names of clients. deposits: ids."""

    url: str
    folder: Path
    keys: dict[str, str]
    deposits: list[str]


@cache
def state(kind: str, beginning: Beginning) -> State:
    """The finished state, which tests copy. kind: of the database."""
    name = "-".join(str(value) for value in (kind, *astuple(beginning)))
    folder = made_once(name, partial(_make, kind, beginning))
    return State(**json.loads((folder / "state.json").read_text()), folder=folder / "state")


def migrated(kind: str) -> str | None:
    """The URL of a database of the newest schema and without a row, if a run of the tests shares one."""
    return state(kind, Beginning(has_keys=False)).url if VARIABLE in os.environ else None


def _make(kind: str, beginning: Beginning, folder: Path) -> None:
    previous = state(kind, beginning.previous) if beginning.previous else None
    url = create_database(kind, folder, previous.url if previous else None)
    database = Database(url)
    if previous is None:
        (folder / "state").mkdir(mode=0o700)
        upgrade(database)
        keys: dict[str, str] = {}
        deposits: list[str] = []
    else:
        shutil.copytree(previous.folder, folder / "state")
        keys, deposits = previous.keys, list(previous.deposits)
        keys = keys or {name: create_key(database, name, *roles) for name, roles in CLIENTS.items()}
        settings = Settings(state_folder=folder / "state", database_url=url, device="cpu", _env_file=None)  # type: ignore[call-arg]
        with serving_on(settings, database, keys, deposits) as service:
            _take_the_last_step(service, beginning)
    database.engine.dispose()
    (folder / "state.json").write_text(json.dumps({"url": url, "keys": keys, "deposits": deposits}))


def _take_the_last_step(service: Service, beginning: Beginning) -> None:
    if beginning.is_examined:
        with without_training_attacks():
            examine(service.worker, service.reader.evidence_of(service.deposits[-1])[0]["id"])
    elif beginning.deposits:
        service.deposits.append(service.deposit(beginning.deposits[-1].split()))
        _erase_what_is_due(service)
    elif beginning.has_evaluation_set:
        service.operator.upload_dataset("birds", service.archive(CLASSES, each=6), purpose="evaluation")
    elif beginning.is_trained:
        service.register_trained()
    elif beginning.is_registered:
        service.register()


def _erase_what_is_due(service: Service) -> None:
    """Wait for sessions of other tests on PostgreSQL. The worker does not, and what is left would be in every copy."""
    with service.database.reading() as session:
        names = session.scalars(sa.select(ErasureRow.name)).all()
    erasure.erase(service.database, service.worker.vault, names)
    with service.database.reading() as session:
        assert not erasure.count_due(session)


@contextmanager
def without_training_attacks() -> Iterator[None]:
    """Examinations in this process leave out the attacks that train."""
    attacks, why_not = ("attacks", "distillation"), Examination._why_not
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Examination, "_why_not", lambda self, part: "-" if part in attacks else why_not(self, part))
        yield
