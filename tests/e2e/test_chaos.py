from pathlib import Path

import pytest

from tests.e2e.chaos import Chaos
from tests.e2e.installation import KINDS, Kind, started


@pytest.mark.attack
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS[-1:])
def test_killing_any_process_at_any_time_loses_nothing(kind: Kind, tmp_path: Path) -> None:
    """The short dose. `make chaos N=2000` is the long one: on both kinds, and 60 deposits with Celery."""
    deposits, kills = 60, 40
    with started(kind, tmp_path, has_celery=False) as running:
        report = Chaos(running, deposits, seed=2, kills=kills, pause=(0.1, 1)).run()
    assert not report.violations, report.violations
    assert len(report.accepted) == deposits
    assert report.kills >= kills
    assert report.interrupted >= 3  # kills between deposits would prove nothing
