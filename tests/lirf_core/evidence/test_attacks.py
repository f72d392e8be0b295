"""Attacks on a network's forgetting, on data whose result is known."""

import pytest
import torch

from lirf_core.evidence.membership import attack
from lirf_core.evidence.relearning import relearning_curve
from lirf_core.images.preprocessing import Augmentation
from lirf_core.losses import margins
from tests.lirf_core.factories import CPU, PREPROCESSING, images, network


def test_an_attacks_area_is_the_share_of_pairs_in_the_right_order() -> None:
    members, strangers = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0])
    assert attack(members, strangers).auc == pytest.approx(4.5 / 6)  # a tie is half a pair
    assert attack(strangers, members).auc == pytest.approx(1.5 / 6)
    assert attack(members, members).auc == pytest.approx(0.5)


def test_the_error_of_an_attack_falls_with_the_number_of_images() -> None:
    drawn = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    small, large = (attack(*drawn[:, :count]) for count in (100, 4000))
    assert large.error == pytest.approx(small.error / 40**0.5, rel=0.05)
    assert abs(large.auc - 0.5) < 3 * large.error


def test_a_margin_is_the_log_odds_of_the_true_class() -> None:
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    p = logits.softmax(1)[torch.arange(5), labels]
    assert torch.allclose(margins(logits, labels), torch.log(p / (1 - p)), atol=1e-5)


def test_relearning_raises_the_accuracy_and_does_not_change_the_network() -> None:
    few, held_out = images(60, [0, 1, 2, 3, 4]), images(100, [0, 1, 2, 3, 4], seed=1)
    attacked = network()
    before = {name: tensor.clone() for name, tensor in attacked.state_dict().items()}
    curve = relearning_curve(attacked, few, held_out, [0, 1], PREPROCESSING, Augmentation(0, False), CPU, steps=(0, 40))
    assert [point.step for point in curve] == [0, 40]
    assert (curve[1].deposited or 0) > (curve[0].deposited or 0) + 20
    assert all(torch.equal(tensor, before[name]) for name, tensor in attacked.state_dict().items())
