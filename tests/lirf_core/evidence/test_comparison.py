"""Attackers of target and reference: what they are given, and what is reported of them."""

import copy
from dataclasses import replace

import pytest
import torch

from lirf_core.class_rows import last_layer
from lirf_core.evidence.answers import CannotBeMeasured
from lirf_core.evidence.attacks.comparison import Budget, Comparison, Field
from lirf_core.evidence.attacks.draws import attacked_classes, draws
from lirf_core.evidence.attacks.statistic import advantage
from lirf_core.evidence.images import Labelled
from lirf_core.images.preprocessing import Augmentation
from lirf_core.network import SplitNetwork
from tests.lirf_core.attackers import TINY
from tests.lirf_core.factories import CPU, PREPROCESSING, images, network

EVERY = [0, 1, 2, 3, 4]
NEVER_SEEN = 368.8879  # points, of one image


def numbered(count: int, classes: int) -> Labelled:
    """Each image has its number as its only pixel."""
    pixels = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1)
    return Labelled(pixels, torch.arange(count) % classes)


def field(held_out: Labelled | None = None, deposited: tuple[int, ...] = (1,)) -> Field:
    labelled = held_out or Labelled(*images(40, EVERY))
    preserved = [one for one in EVERY if one not in deposited]
    return Field(labelled, deposited, preserved, PREPROCESSING, Augmentation(0, False), CPU, CPU)


def test_each_image_is_a_question_of_one_attacker_who_never_saw_it() -> None:
    several = draws(numbered(60, 3), [0], 4, 5, seed=0)
    asked = [one for draw in several for one in draw.questions.images().flatten().tolist()]
    assert sorted(asked) == list(range(60))
    for draw in several:
        learnt, tuned, questions = (
            set(of.images().flatten().tolist()) for of in (draw.learning, draw.tuning, draw.questions)
        )
        assert not learnt & tuned
        assert not (learnt | tuned) & questions
        assert draw.learning.labels.bincount().tolist() == [5, 5, 5]
    first, second = (set(draw.learning.images().flatten().tolist()) for draw in several[:2])
    assert not first & second  # with enough images, attackers learn from others


def test_few_images_make_fewer_attackers_and_none_are_too_few() -> None:
    assert len(draws(numbered(12, 3), [0], 10, 5, seed=0)) == 4
    assert attacked_classes(numbered(11, 3), [0, 1, 2]) == [0, 1]
    with pytest.raises(CannotBeMeasured, match="At least 4 held-out images"):
        draws(numbered(12, 3), [], 2, 5, seed=0)


def test_rows_of_deposited_classes_are_made_anew_for_every_attacker() -> None:
    """So it changes nothing what they were: useful, pushed down or absent."""
    one = network()
    other = copy.deepcopy(one)
    with torch.no_grad():
        layer = last_layer(other.upper)
        layer.weight[1], layer.bias[1] = 5.0, -30.0
    other.absent = frozenset([1])
    read = [Comparison(field(), TINY, "small", True).attack("target", of) for of in (one, other)]
    assert read[0] == read[1]


def test_classes_that_are_neither_deposited_nor_preserved_are_left_out() -> None:
    """Another deposit holds class 4, and class 3 has too few images."""
    labelled = Labelled(*images(40, EVERY))
    scarce = labelled.select(
        torch.cat([(labelled.labels != 3).nonzero()[:, 0], (labelled.labels == 3).nonzero()[:2, 0]])
    )
    comparison = Comparison(replace(field(scarce), preserved=[0, 2, 3]), TINY, "small", True)
    attacks = comparison.result({name: comparison.attack(name, network()) for name in ("target", "reference")})
    assert attacks.asked == 8
    assert [ahead.points for ahead in attacks.advantages] == [0] * 6
    assert [ahead.high for ahead in attacks.advantages] == [pytest.approx(NEVER_SEEN / 8, abs=1e-3)] * 6


def test_what_is_reported_names_attackers_and_budgets() -> None:
    comparison = Comparison(field(deposited=(0, 1)), TINY, "small", True)
    original: SplitNetwork = network()
    networks = {"original": comparison.attack_original(original)}
    networks |= {name: comparison.attack(name, network(seed)) for seed, name in enumerate(("target", "reference"), 1)}
    networks["fresh"] = comparison.attack_fresh(network(3))
    attacks = comparison.result(networks)
    assert attacks.budgets == [
        Budget("best", 0, 0),
        Budget("best", 2, 0),
        Budget("best", 2, 1),
        Budget("best", 2, 2),
        Budget("probe", 2, 0),
        Budget("probe at the split", 2, 0),
    ]
    target = attacks.networks["target"]
    assert [len(reading.deposited) for reading in target.readings] == [2] * 6
    assert target.readings[0].attacks == ["bias", "bias"]
    assert target.readings[4].attacks == ["logistic probe, penalty 10"] * 2
    assert target.readings[5].attacks == ["logistic probe at the split, penalty 10"] * 2
    assert all(len(reading.deposited) == 1 for name in ("original", "fresh") for reading in networks[name].readings)
    tried = {attack for reading in networks["original"].readings for attack in reading.attacks}
    assert not any("fine-tuning" in attack for attack in tried)
    assert attacks.anamnesis is not None
    assert attacks.anamnesis.most_steps == 10
    assert attacks.anamnesis.goal == pytest.approx(0.9 * networks["original"].before.deposited)


def test_two_draws_that_agree_by_chance_are_not_certain() -> None:
    assert advantage([0.0, 0.0], [0.0, 0.0], asked=10).high == pytest.approx(NEVER_SEEN / 10, abs=1e-3)
    assert advantage([0.0, 0.0], [0.0, 0.0]).high == 0
