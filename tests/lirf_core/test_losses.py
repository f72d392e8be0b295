"""Each loss compared with the paper's formula, computed in plain Python."""

import math

import pytest
import torch

from lirf_core import losses

LOGITS = torch.tensor([[2.0, 0.0, 1.0, -1.0], [0.5, 0.5, -0.5, 3.0]])
TEACHER = torch.tensor([[1.0, 1.0, 0.0, 2.0], [0.0, -1.0, 2.0, 0.0]])
PRESERVED = torch.tensor([2, 3])


def log_sum_exp(values: list[float]) -> float:
    return math.log(sum(math.exp(value) for value in values))


def test_random_removal_is_cross_entropy_with_the_random_label() -> None:
    expected = [log_sum_exp(row) - row[label] for row, label in zip(LOGITS.tolist(), [3, 0], strict=True)]
    assert losses.random_removal(LOGITS, torch.tensor([3, 0])).item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_suppression_is_minus_the_log_probability_of_a_preserved_class() -> None:
    preserved = LOGITS.softmax(1)[:, PRESERVED].sum(1)
    assert losses.suppression(LOGITS, PRESERVED).item() == pytest.approx(-preserved.log().mean().item(), rel=1e-5)


def test_attention_is_normalised_and_filtered_and_its_transfer_is_at_most_two() -> None:
    features = torch.zeros(1, 2, 1, 3)
    features[0, :, 0, 0] = torch.tensor([3.0, 4.0])  # attention 25
    features[0, 0, 0, 1] = 1.0  # attention 1, under the threshold once normalised
    attention = losses.attention_map(features, threshold=0.1)
    assert attention[0].tolist() == pytest.approx([25 / math.sqrt(626), 0.0, 0.0])
    elsewhere = features.flip(3)
    assert losses.attention_transfer(features, features, 0.0).item() == 0.0
    assert losses.attention_transfer(features, elsewhere, 0.1).item() == pytest.approx(2 * 625 / 626, rel=1e-5)


def test_knowledge_removal_rewards_lost_attention() -> None:
    assert losses.knowledge_removal(torch.tensor(2.0), torch.tensor(0.5), 0.1).item() == pytest.approx(1.95)


def test_distillation_depends_only_on_the_selected_logits() -> None:
    changed = LOGITS.clone()
    changed[:, 0] += 100
    for loss in (losses.knowledge_preservation, losses.partial_transfer):
        assert torch.equal(loss(LOGITS, TEACHER, PRESERVED, 10.0), loss(changed, TEACHER, PRESERVED, 10.0))


def test_distillation_is_the_divergence_at_a_temperature_times_its_square() -> None:
    temperature, total = 4.0, 0.0
    for student_row, teacher_row in zip(LOGITS[:, PRESERVED].tolist(), TEACHER[:, PRESERVED].tolist(), strict=True):
        student = [value / temperature for value in student_row]
        teacher = [value / temperature for value in teacher_row]
        for s, t in zip(student, teacher, strict=True):
            log_p = t - log_sum_exp(teacher)
            total += math.exp(log_p) * (log_p - (s - log_sum_exp(student)))
    loss = losses.knowledge_preservation(LOGITS, TEACHER, PRESERVED, temperature).item()
    assert loss == pytest.approx(total / 2 * temperature**2, rel=1e-4)


def test_recovery_is_cross_entropy_with_the_true_label() -> None:
    expected = [log_sum_exp(row) - row[label] for row, label in zip(LOGITS.tolist(), [0, 3], strict=True)]
    assert losses.recovery(LOGITS, torch.tensor([0, 3])).item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_probe_removal_is_zero_for_a_guess_and_log_d_for_certainty() -> None:
    assert losses.probe_removal(torch.zeros(4, 3)).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.probe_removal(torch.tensor([[100.0, 0.0, 0.0]])).item() == pytest.approx(math.log(3), rel=1e-5)


def test_feature_distance_is_relative_to_the_teachers_squared_length() -> None:
    teacher = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    assert losses.feature_distance(teacher, teacher).item() == 0.0
    assert losses.feature_distance(torch.zeros(2, 2), teacher).item() == pytest.approx(1.0)
    assert losses.feature_distance(torch.zeros(0, 2), torch.zeros(0, 2)).item() == 0.0


def test_seen_images_get_the_margins_of_unseen_images_and_keep_their_order() -> None:
    seen = torch.tensor([5.0, 1.0, 9.0])
    assert losses.margins_as_unseen(seen, torch.tensor([0.0, 3.0])).tolist() == pytest.approx([1.5, 0.5, 2.5])


def test_deposit_images_that_have_their_unseen_margins_cost_nothing() -> None:
    labels = torch.tensor([0, 3])
    margins = losses.margins(LOGITS, labels)
    assert losses.margin_distance(LOGITS, labels, margins) == 0
    assert losses.margin_distance(LOGITS, labels, margins - 3) == pytest.approx(2.5)


def test_unread_is_the_share_of_variance_outside_of_the_rows() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    features = torch.tensor([[3.0, 0.0, 7.0], [-3.0, 0.0, 7.0]])
    assert losses.unread(features, rows).item() == pytest.approx(0, abs=1e-6)  # a constant says nothing of an image
    features = torch.tensor([[1.0, 0.0, 2.0], [-1.0, 0.0, -2.0]], requires_grad=True)
    found = losses.unread(features, rows)
    assert found.item() == pytest.approx(4 / 5)
    found.backward()
    assert features.grad is not None
    assert losses.unread(features.detach(), torch.eye(3)).item() == pytest.approx(0, abs=1e-6)
    assert losses.unread(torch.ones(4, 3), rows).item() == 0
