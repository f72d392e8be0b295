import copy

import torch

from lirf_core.agreement import agreement
from lirf_core.evidence.chance import is_known, knows_anything, unknown
from lirf_core.metrics import tally
from lirf_core.tally import Tally
from tests.lirf_core.factories import CPU, PREPROCESSING, images, network


def test_a_network_agrees_with_itself_and_never_with_one_that_exchanges_the_classes() -> None:
    teacher, (deposited, _) = network(), images(8, [0, 1])
    same = agreement(teacher, copy.deepcopy(teacher), deposited, [2, 3, 4], PREPROCESSING, CPU)
    assert same.correct == same.images
    assert sum(same.images) == same.images_of([2, 3, 4]) > 0
    other = copy.deepcopy(teacher)
    last = [layer for layer in other.upper.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.copy_(last.weight.roll(1, 0))
        last.bias.copy_(last.bias.roll(1, 0))
    assert agreement(teacher, other, deposited, [2, 3, 4], PREPROCESSING, CPU) == Tally((0,) * 5, same.images)


def test_a_tally_counts_each_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2])
    counted = tally(torch.eye(4)[torch.tensor([0, 0, 1, 1, 3])], labels)
    assert counted == Tally((2, 1, 0, 0), (3, 1, 1, 0))
    assert (counted.percent([0]), counted.percent([0, 1]), counted.percent([3])) == (66.6667, 75.0, None)


def test_only_more_than_chance_is_knowledge() -> None:
    assert not is_known(0, 0, 10)
    assert not is_known(1, 1, 10)  # a guess is right with 10 %
    assert is_known(2, 2, 10)
    assert not is_known(14, 100, 10)
    assert is_known(17, 100, 10)
    counted = Tally((60, 3, 0), (100, 9, 0))
    assert unknown(counted, [0, 1, 2]) == [1, 2]
    assert knows_anything(counted, [0, 1])
    assert not knows_anything(counted, [1, 2])
