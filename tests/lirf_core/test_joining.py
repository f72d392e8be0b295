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


def test_a_class_is_averaged_over_its_module_and_those_of_other_deposits_that_know_it() -> None:
    """Parts that answer alike, up to levels, join to what they answer, whatever lies where a part knows nothing."""
    whole = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    levels = torch.randn(4, 7, 1, generator=torch.Generator().manual_seed(1))
    unknown = torch.full((7, 6), 1e3)
    parts = [torch.cat([unknown[:, :count], whole[:, count:]], 1) + levels[i] for i, count in enumerate((3, 0, 1, 2))]
    modules = [ModuleAnswer(logits, [n], 1.0 + n, range(n, 6)) for n, logits in enumerate(parts[1:])]
    joined = join(parts[0], modules, [3, 4, 5], "averaged")
    assert torch.allclose(joined, whole + levels[0], atol=1e-4)
    second = ModuleAnswer(whole, [1], 3.0, range(1, 6))
    first = ModuleAnswer(whole + torch.tensor([0.0, 4.0, 0.0, 0.0, 0.0, 0.0]), [0], 1.0, range(6))
    shifted = join(parts[0], [first, second], [3, 4, 5], "averaged") - levels[0] - whole
    assert torch.allclose(shifted[:, [0, 1]], torch.tensor([0.0, 4.0 * 1 / (1 + 3)]).expand(7, 2), atol=1e-4)


def test_what_a_module_does_not_know_or_nobody_asks_for_has_no_influence() -> None:
    def joined(change: list[float], known: list[int] | None) -> Tensor:
        first = ModuleAnswer(TEACHER + torch.tensor(change), [0], known=known)
        return join(LOGITS, [first, ModuleAnswer(TEACHER, [1])], [2, 3], "averaged")

    assert torch.equal(joined([0.0, 9.0, 0.0, 0.0], [0, 2, 3]), joined([0.0] * 4, [0, 2, 3]))
    assert torch.equal(joined([0.0, 9.0, 0.0, 0.0], None), joined([0.0] * 4, [0, 2, 3]))
    alone = [join(LOGITS, [ModuleAnswer(TEACHER, [0], known=known)], [2, 3], "averaged") for known in (None, range(4))]
    assert torch.equal(*alone)
    assert torch.equal(alone[0][:, 1], LOGITS[:, 1])


def test_a_training_can_join_after_an_answer() -> None:
    """An index that is made while a network answers is kept, and no gradient may pass an inference tensor."""
    module, preserved = ModuleAnswer(TEACHER, [0]), [1, 3]
    with torch.inference_mode():
        join(LOGITS, [module], preserved, "averaged")
    logits = LOGITS.clone().requires_grad_()
    join(logits, [module], preserved, "averaged").sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
