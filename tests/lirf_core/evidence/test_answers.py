import pytest
import torch

from lirf_core.evidence.answers import BINS, answered, share


def test_a_share_has_wilsons_interval() -> None:
    found = share(torch.tensor([True] * 8 + [False] * 2))
    assert found is not None
    assert (found.percent, found.images) == (80.0, 10)
    assert (found.low, found.high) == pytest.approx((49.02, 94.33), abs=0.01)  # as R's binom.confint has it
    never = share(torch.zeros(100, dtype=torch.bool))
    assert never is not None
    assert never.low == 0.0
    assert never.high == pytest.approx(3.70, abs=0.01)
    assert share(torch.zeros(0, dtype=torch.bool)) is None


def test_images_of_deposited_classes_are_counted_by_what_they_are_taken_for() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2])
    logits = torch.eye(3)[torch.tensor([1, 1, 2, 1, 2])] * 20
    found = answered(logits, labels, [0], ["auk", "dodo", "emu"])
    assert found.confusion == {"auk": {"dodo": 2, "emu": 1}}
    assert found.deposited is not None
    assert found.deposited.percent == 0.0
    assert found.preserved is not None
    assert found.preserved.percent == 100.0
    assert {name: of.images for name, of in found.by_class.items()} == {"auk": 3, "dodo": 1, "emu": 1}
    assert found.confidences["deposited"] == [0] * (BINS - 1) + [3]
    unsure = answered(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), [0], ["auk", "dodo", "emu"])
    assert unsure.confidences["deposited"][int(BINS / 3)] == 4  # a third for each class
