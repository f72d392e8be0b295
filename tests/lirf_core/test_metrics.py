import pytest
import torch

from lirf_core.metrics import accuracy, forgetting, h_mean


def test_accuracy_is_measured_by_class_and_by_part() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 1, 0]), 4).float()
    result = accuracy(logits, labels, deposited=[0])
    assert result.by_class == (50.0, 100.0, 0.0, None)
    assert result.deposited == 50.0
    assert result.preserved == pytest.approx(100 * 2 / 3, abs=1e-3)
    assert result.average == 60.0


def test_h_mean_matches_the_papers_figure() -> None:
    assert h_mean(93.41, forgetting(94.60, 15.00)) == pytest.approx(85.95, abs=0.01)
    assert h_mean(93.0, 0.0) == 0.0
