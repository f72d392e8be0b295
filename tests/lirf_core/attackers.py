"""A plan of attacks for tests that are not about what attackers find: as few and as short as they can be."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lirf_core.evidence.attacks.config import PLANS, AttackConfig, Plan

TINY = Plan(
    AttackConfig(
        images=(2,),
        probe_images=(2,),
        penalties=(10.0,),
        scales=(1.0,),
        heads=("prototypes",),
        learning_rates=(0.01,),
        steps=(1, 2),
        batch_size=4,
    ),
    draws=2,
)


@contextmanager
def short_attacks(steps: int = 3) -> Iterator[None]:
    """Attackers in this process are tiny, and students train for so many steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PLANS, "small", TINY)
        patch.setattr("lirf_core.evidence.attacks.comparison.anamnesis.MOST_EPOCHS", 1)
        patch.setattr("lirf_core.evidence.examination.STUDENT_STEPS", steps)
        patch.setattr("lirf_core.evidence.examination.STUDENT_EPOCHS", 1)
        yield
