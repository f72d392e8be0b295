"""Real processes of the API, workers and the reconciler, on SQLite, and on PostgreSQL with Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.conftest import database, database_url, service, settings  # noqa: F401 - fixtures for test_console
from tests.e2e.installation import KINDS, Installation, started


@pytest.fixture(params=KINDS)
def forked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """On SQLite, and on PostgreSQL if available. Its workers are forks."""
    with started(request.param, tmp_path, has_celery=False) as running:
        yield running


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Installation]:
    """On SQLite, with a queue in a file. Its workers are Celery's."""
    with started("embedded", tmp_path) as running:
        yield running
