import pytest
import torch

from lirf_core import class_rows
from lirf_core.config import Joining
from lirf_core.network import digest
from lirf_core.pruning import example_input, prune
from lirf_core.recover import DepositModule, ForeignUpperPart, OverlappingModules, RecoverNetwork, answers
from tests.lirf_core.factories import network

UPPER = digest(network().upper)
PRESERVED = [4]


def module(
    classes: list[int], rate: float = 0.5, upper: str = UPPER, joining: Joining = "averaged", seed: int = 1
) -> DepositModule:
    lower = prune(network(seed).lower, rate, example_input(1, (8, 8)))
    return DepositModule(lower, classes, upper, joining).eval()


@pytest.mark.parametrize("classes", [[], [[0]], [[3], [1]], [[0, 3], [2], [1]]])
def test_in_eq_8_each_logit_comes_from_its_own_part(classes: list[list[int]]) -> None:
    target, images = network(), torch.randn(3, 1, 8, 8)
    modules = [module(of_module, joining="eq8") for of_module in classes]
    answers = RecoverNetwork(target, modules, UPPER, PRESERVED)(images)
    expected = target(images)
    for deposited in modules:
        expected[:, list(deposited.classes)] = target.upper(deposited(images))[:, list(deposited.classes)]
    assert torch.allclose(answers, expected, atol=1e-5)


def test_the_upper_part_runs_once_for_any_number_of_modules() -> None:
    target = network()
    batches: list[int] = []
    target.upper.register_forward_hook(lambda part, inputs, output: batches.append(len(inputs[0])))
    RecoverNetwork(target, [module([0]), module([1]), module([2])], UPPER, PRESERVED)(torch.randn(2, 1, 8, 8))
    assert batches == [8]


def test_the_order_of_withdrawals_does_not_change_the_answers() -> None:
    images, modules = torch.randn(2, 1, 8, 8), [module([0]), module([3])]
    forward = RecoverNetwork(network(), modules, UPPER, PRESERVED)(images)
    assert torch.equal(forward, RecoverNetwork(network(), modules, UPPER, PRESERVED)(images))
    assert torch.allclose(forward, RecoverNetwork(network(), modules[::-1], UPPER, PRESERVED)(images), atol=1e-6)


def test_a_module_of_another_upper_part_is_refused_by_name() -> None:
    foreign = digest(network(5).upper)
    with pytest.raises(
        ForeignUpperPart, match=rf"classes \[0, 2\] belongs to the upper part {foreign[:12]}, not to {UPPER[:12]}"
    ):
        RecoverNetwork(network(), [module([0, 2], upper=foreign)], UPPER, PRESERVED)


def test_two_modules_for_the_same_class_are_refused() -> None:
    with pytest.raises(OverlappingModules, match=r"classes \[2\]"):
        RecoverNetwork(network(), [module([0, 2]), module([2])], UPPER, PRESERVED)


def test_the_modules_of_two_groups_answer_together_as_the_one_they_are_made_of() -> None:
    images, target = torch.randn(3, 1, 8, 8), network()
    whole = module([0, 2, 3]).with_rows(class_rows.take(target, [0, 2, 3]))
    class_rows.remove(target, [0, 2, 3])
    first, second = whole.only([3, 0]), whole.only([2])
    assert (first.classes, second.classes) == ((0, 3), (2,))
    assert first.rows
    assert second.rows
    assert torch.equal(torch.cat([first.rows.weight, second.rows.weight]), whole.row_weight[[0, 2, 1]])
    assert first.lower is not whole.lower

    together = RecoverNetwork(target, [first, second], UPPER, [1, 4])(images)
    expected = RecoverNetwork(target, [whole], UPPER, [1, 4])(images)
    deposited = [0, 2, 3]
    assert torch.allclose(together[:, deposited], expected[:, deposited], atol=1e-5)
    alone = RecoverNetwork(target, [second], UPPER, [1, 4])(images)
    assert (alone[:, [0, 3]] == class_rows.ABSENT_LOGIT).all()
    assert torch.allclose(alone[:, 2], expected[:, 2], atol=1e-5)


def test_levelled_modules_give_their_classes_the_same_probability_as_alone() -> None:
    target, images, levelled = network(), torch.randn(3, 1, 8, 8), module([0, 2], joining="levelled")
    answers = RecoverNetwork(target, [levelled], UPPER, [1, 3, 4])(images)
    alone = target.upper(levelled(images))
    assert torch.allclose(answers.softmax(1)[:, [0, 2]], alone.softmax(1)[:, [0, 2]], atol=1e-5)
    assert torch.allclose(answers[:, [1, 3, 4]], target(images)[:, [1, 3, 4]], atol=1e-5)


def test_averaged_modules_also_average_the_preserved_logits() -> None:
    target, images, preserved = network(), torch.randn(3, 1, 8, 8), [3, 4]
    modules = [module([0]), module([1, 2], seed=2)]
    answers = RecoverNetwork(target, modules, UPPER, preserved)(images)
    parts = [target(images), *(target.upper(deposited(images)) for deposited in modules)]
    expected = torch.stack([logits[:, preserved].log_softmax(1) for logits in parts]).mean(0).softmax(1)
    assert torch.allclose(answers[:, preserved].softmax(1), expected, atol=1e-5)
    for logits, deposited in zip(parts[1:], modules, strict=True):
        both = [*deposited.classes, *preserved]
        mass, alone = (z[:, both].softmax(1)[:, : len(deposited.classes)] for z in (answers, logits))
        assert torch.allclose(mass, alone, atol=1e-5)


def test_a_deposited_class_that_is_not_withdrawn_keeps_the_targets_logit() -> None:
    target, images = network(), torch.randn(3, 1, 8, 8)
    answers = RecoverNetwork(target, [module([0])], UPPER, [2, 3, 4])(images)
    assert torch.allclose(answers[:, 1], target(images)[:, 1], atol=1e-5)


def test_modules_with_different_joinings_are_joined_by_the_equation_as_written() -> None:
    target, images = network(), torch.randn(2, 1, 8, 8)
    mixed = [module([0], joining="levelled"), module([1])]
    as_written = [module([0], joining="eq8"), module([1], joining="eq8")]
    answers, expected = (RecoverNetwork(target, some, UPPER, [2, 3, 4])(images) for some in (mixed, as_written))
    assert torch.equal(answers, expected)


def test_networks_of_one_target_answer_together_exactly_as_alone() -> None:
    """The lower part runs once over all images, each module once, the upper part once."""
    target = network()
    auk, emu = module([0]), module([3], seed=2)
    networks = [RecoverNetwork(target, modules, UPPER, PRESERVED) for modules in ([], [auk], [emu, auk], [auk])]
    images = [torch.randn(count, 1, 8, 8) for count in (3, 1, 2, 4)]
    alone = [one(own) for one, own in zip(networks, images, strict=True)]
    runs: dict[str, list[int]] = {"lower": [], "auk": [], "emu": [], "upper": []}
    for name, part in (("lower", target.lower), ("auk", auk), ("emu", emu), ("upper", target.upper)):
        part.register_forward_hook(lambda part, inputs, output, name=name: runs[name].append(len(inputs[0])))  # type: ignore[misc]
    together = answers(networks, images)
    assert runs == {"lower": [10], "auk": [7], "emu": [2], "upper": [19]}
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(together, alone, strict=True))
