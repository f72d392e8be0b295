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
def test_a_probe_reads_classes_as_well_as_they_are_separated(distance: float, least: float, most: float) -> None:
    questions, labels = sample(1, distance)
    is_correct = linear_probe(sample(0, distance), questions, 3).argmax(1) == labels
    assert least <= is_correct.float().mean() <= most


def test_a_probe_of_random_features_is_no_better_than_chance() -> None:
    noise = torch.randn(600, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(600) % 4
    answers = linear_probe((noise[:300], labels[:300]), noise[300:], 4).argmax(1)
    assert (answers == labels[300:]).float().mean() < 0.4
