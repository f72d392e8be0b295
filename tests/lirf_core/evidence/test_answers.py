import pytest
import torch

from lirf_core.evidence.answers import BINS, share, summarise


def test_a_share_has_wilsons_interval() -> None:
    eight_of_ten = share(torch.tensor([True] * 8 + [False] * 2))
    assert eight_of_ten is not None
    assert (eight_of_ten.percent, eight_of_ten.images) == (80.0, 10)
    assert (eight_of_ten.low, eight_of_ten.high) == pytest.approx((49.02, 94.33), abs=0.01)  # R's binom.confint
    never = share(torch.zeros(100, dtype=torch.bool))
    assert never is not None
    assert never.low == 0.0
    assert never.high == pytest.approx(3.70, abs=0.01)
    assert share(torch.zeros(0, dtype=torch.bool)) is None


def test_images_of_deposited_classes_are_counted_by_their_answers() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2])
    logits = torch.eye(3)[torch.tensor([1, 1, 2, 1, 2])] * 20
    summary = summarise(logits, labels, [0], ["auk", "dodo", "emu"])
    assert summary.confusion == {"auk": {"dodo": 2, "emu": 1}}
    assert summary.deposited is not None
    assert summary.deposited.percent == 0.0
    assert summary.preserved is not None
    assert summary.preserved.percent == 100.0
    assert {name: class_share.images for name, class_share in summary.by_class.items()} == {
        "auk": 3,
        "dodo": 1,
        "emu": 1,
    }
    assert summary.confidences["deposited"] == [0] * (BINS - 1) + [3]
    unsure = summarise(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), [0], ["auk", "dodo", "emu"])
    assert unsure.confidences["deposited"][int(BINS / 3)] == 4  # a third for each class
