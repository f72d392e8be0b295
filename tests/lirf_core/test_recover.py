import pytest
import torch

from lirf_core.network import digest
from lirf_core.pruning import example_input, prune
from lirf_core.recover import DepositModule, ForeignUpperPart, OverlappingModules, RecoverNetwork
from tests.lirf_core.factories import network

UPPER = digest(network().upper)


def module(classes: list[int], rate: float = 0.5, upper: str = UPPER) -> DepositModule:
    made = DepositModule(prune(network(1).lower, rate, example_input(1, (8, 8))), classes, upper)
    return made.eval()


@pytest.mark.parametrize("classes", [[], [[0]], [[3], [1]], [[0, 4], [2], [1]]])
def test_each_logit_comes_from_its_own_part(classes: list[list[int]]) -> None:
    target, images = network(), torch.randn(3, 1, 8, 8)
    modules = [module(held) for held in classes]
    answers = RecoverNetwork(target, modules, UPPER)(images)
    expected = target(images)
    for held in modules:
        expected[:, list(held.classes)] = target.upper(held(images))[:, list(held.classes)]
    assert torch.allclose(answers, expected, atol=1e-5)


def test_the_upper_part_runs_once_however_many_modules_there_are() -> None:
    target = network()
    batches: list[int] = []
    target.upper.register_forward_hook(lambda part, inputs, output: batches.append(len(inputs[0])))
    RecoverNetwork(target, [module([0]), module([1]), module([2])], UPPER)(torch.randn(2, 1, 8, 8))
    assert batches == [8]


def test_withdrawing_in_another_order_answers_the_same() -> None:
    images, modules = torch.randn(2, 1, 8, 8), [module([0]), module([3])]
    forward = RecoverNetwork(network(), modules, UPPER)(images)
    assert torch.equal(forward, RecoverNetwork(network(), modules, UPPER)(images))
    assert torch.allclose(forward, RecoverNetwork(network(), modules[::-1], UPPER)(images), atol=1e-6)


def test_a_module_of_a_foreign_upper_part_is_refused_by_name() -> None:
    foreign = digest(network(5).upper)
    with pytest.raises(
        ForeignUpperPart, match=rf"classes \[0, 2\] belongs to the upper part {foreign[:12]}, not to {UPPER[:12]}"
    ):
        RecoverNetwork(network(), [module([0, 2], upper=foreign)], UPPER)


def test_two_modules_of_one_class_are_refused() -> None:
    with pytest.raises(OverlappingModules, match=r"classes \[2\]"):
        RecoverNetwork(network(), [module([0, 2]), module([2])], UPPER)
