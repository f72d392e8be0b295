import pytest
import torch

from lirf_core.metrics import accuracy, forgetting, h_mean


def test_accuracy_is_counted_by_class_and_by_part() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 1, 0]), 4).float()
    found = accuracy(logits, labels, deposited=[0])
    assert found.by_class == (50.0, 100.0, 0.0, None)
    assert found.deposited == 50.0
    assert found.preserved == pytest.approx(100 * 2 / 3, abs=1e-3)
    assert found.average == 60.0


def test_h_mean_is_the_papers() -> None:
    assert h_mean(93.41, forgetting(94.60, 15.00)) == pytest.approx(85.95, abs=0.01)
    assert h_mean(93.0, 0.0) == 0.0
