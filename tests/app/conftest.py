"""A real service for each test: uvicorn on a free port, SQLite and (where TEST_DATABASE_URL is set) PostgreSQL."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.base.database import Database
from app.base.settings import Settings
from app.vault import erasure
from tests.app.identity_provider import Provider
from tests.app.service import Service, serving_on, started
from tests.app.states import Beginning, State, begins_with, state
from tests.databases import KINDS, POSTGRESQL, own_database

__all__ = ["HTTP", "KINDS", "POSTGRESQL", "Service", "begins_with", "on_one_database", "own_database", "started"]

# Other tests create databases at the same time. Each creation is a transaction that PostgreSQL's erasure waits for, and
# on a slow machine it takes longer than a user would wait.
erasure.WAIT_SECONDS = 30.0
HTTP = httpx.Client(timeout=60)  # httpx.get reads the certificates that it trusts for each request: 50 ms
# For what has nothing to do with the database: how a request is read, a page written, a number computed.
on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def state_of(request: pytest.FixtureRequest, kind: str) -> State:
    """What the test begins with: what its mark `begins_with` says, or else the keys that `service` needs."""
    marker = request.node.get_closest_marker("begins_with")
    return state(kind, marker.args[0] if marker else Beginning(has_keys="service" in request.fixturenames))


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the newest schema; it and the state folder are copies."""
    beginning = state_of(request, request.param)
    shutil.copytree(beginning.folder, tmp_path / "state")
    with own_database(request.param, tmp_path, beginning.url) as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(state_folder=tmp_path / "state", database_url=database_url, device="cpu", _env_file=None)  # type: ignore[call-arg]


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database)
    yield database
    database.engine.dispose()


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.server.shutdown()
    provider.server.server_close()


@pytest.fixture
def service(request: pytest.FixtureRequest, settings: Settings, database: Database) -> Iterator[Service]:
    beginning = state_of(request, database.engine.dialect.name)
    with serving_on(settings, database, beginning.keys, list(beginning.deposits)) as service:
        yield service
