"""Real processes: API, worker and reconciler, on the embedded parts and on PostgreSQL and Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.conftest import database, database_url, service, settings  # noqa: F401 - fixtures of the console's tests
from tests.e2e.installation import KINDS, Installation, started


@pytest.fixture(params=KINDS)
def forked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """On SQLite, and on PostgreSQL where there is one; its workers are forks."""
    with started(request.param, tmp_path, has_celery=False) as made:
        yield made


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Installation]:
    """With Celery, on SQLite and a queue in a file."""
    with started("embedded", tmp_path) as made:
        yield made
