import pytest
import torch

from lirf_core.evidence.probe import linear_probe


def sample(seed: int, distance: float = 2.0, count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes around three points."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.tensor([[0.0, 0, 0, 0], [distance, 0, 0, 0], [0.0, distance, 0, 0]])
    return centres[labels] + torch.randn(count, 4, generator=generator), labels


@pytest.mark.parametrize(("distance", "least", "most"), [(2.0, 0.7, 0.95), (20.0, 1.0, 1.0)])
def test_classes_are_read_as_far_as_they_lie_apart(distance: float, least: float, most: float) -> None:
    asked, labels = sample(1, distance)
    is_right = linear_probe(sample(0, distance), asked, 3).argmax(1) == labels
    assert least <= is_right.float().mean() <= most


def test_features_without_the_class_read_no_better_than_chance() -> None:
    noise = torch.randn(600, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(600) % 4
    found = linear_probe((noise[:300], labels[:300]), noise[300:], 4).argmax(1)
    assert (found == labels[300:]).float().mean() < 0.4
