import pytest

from tests.app.conftest import POSTGRESQL
from tests.e2e.chaos import Chaos
from tests.e2e.conftest import REDIS, Installation


@pytest.mark.parametrize("running", ["spread out" if REDIS and POSTGRESQL else "embedded"], indirect=True)
def test_nothing_is_lost_and_nothing_is_done_twice_under_fire(running: Installation) -> None:
    """The short dose; `make chaos N=2000` is the long one, on both."""
    report = Chaos(running, deposits=3, seed=1).run()
    assert not report.violations, report.violations
    assert len(report.accepted) == 3
