"""The joinings of a recover network, each compared with what its equation says."""

import pytest
import torch
from torch import Tensor

from lirf_core.config import Joining
from lirf_core.joining import ModuleAnswer, inverse_error, join

LOGITS = torch.tensor([[2.0, 0.0, 1.0, -1.0], [0.5, 0.5, -0.5, 3.0]])
TEACHER = torch.tensor([[1.0, 1.0, 0.0, 2.0], [0.0, -1.0, 2.0, 0.0]])


def test_eq_8_takes_the_deposited_logits_from_the_module() -> None:
    joined = join(LOGITS, [ModuleAnswer(TEACHER, [0, 1])], [2, 3], "eq8")
    assert joined[0].tolist() == [1.0, 1.0, 1.0, -1.0]


@pytest.mark.parametrize("joining", ["levelled", "averaged"])
def test_levelled_joinings_do_not_depend_on_a_modules_level(joining: Joining) -> None:
    joined = join(LOGITS, [ModuleAnswer(TEACHER, [0, 1])], [2, 3], joining)
    raised = join(LOGITS, [ModuleAnswer(TEACHER + 7, [0, 1])], [2, 3], joining)
    assert torch.allclose(joined, raised, atol=1e-5)
    eq8 = join(LOGITS, [ModuleAnswer(TEACHER, [0, 1])], [2, 3], "eq8")
    assert not torch.allclose(eq8, join(LOGITS, [ModuleAnswer(TEACHER + 7, [0, 1])], [2, 3], "eq8"))


def test_a_mean_of_preserved_logits_follows_the_weights_of_the_modules() -> None:
    def preserved(weight: float) -> Tensor:
        joined = join(LOGITS, [ModuleAnswer(TEACHER, [0, 1], weight)], [2, 3], "averaged")
        return joined[:, [2, 3]].log_softmax(1)

    assert torch.allclose(preserved(0), LOGITS[:, [2, 3]].log_softmax(1), atol=1e-5)
    assert torch.allclose(preserved(1e6), TEACHER[:, [2, 3]].log_softmax(1), atol=1e-4)


def test_logits_nearer_to_the_teachers_weigh_more_and_levels_do_not_count() -> None:
    selected = torch.tensor([0, 1, 2])
    near, far = (inverse_error(TEACHER + scale * LOGITS + 5, TEACHER, selected) for scale in (0.1, 0.2))
    assert torch.isclose(near, 4 * far)
    assert inverse_error(TEACHER, TEACHER, selected) == 1e6


@pytest.mark.parametrize("joining", ["levelled", "averaged"])
def test_without_preserved_classes_every_joining_is_the_equation_as_written(
    joining: Joining,
) -> None:
    assert torch.equal(join(LOGITS, [ModuleAnswer(TEACHER, [0, 1, 2, 3])], [], joining), TEACHER)
