import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lirf_core.evidence.probe import linear_probe


def sample(seed: int, count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes around three points, close enough to be mistaken."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.tensor([[0.0, 0, 0, 0], [2.0, 0, 0, 0], [0.0, 2.0, 0, 0]])
    return centres[labels] + torch.randn(count, 4, generator=generator), labels


def test_the_probe_reads_what_scikit_learns_logistic_regression_reads() -> None:
    training, held_out = sample(0), sample(1)
    scaler = StandardScaler().fit(training[0].numpy())
    reference = LogisticRegression(C=1 / 10.0).fit(scaler.transform(training[0].numpy()), training[1].numpy())
    is_right = reference.predict(scaler.transform(held_out[0].numpy())) == held_out[1].numpy()
    found = linear_probe(training, held_out, deposited=[0], penalty=10.0)
    assert abs((found.average or 0) - 100 * is_right.mean()) <= 0.7
    assert 50 < (found.deposited or 0) < 100


def test_features_without_the_class_read_no_better_than_chance() -> None:
    noise = torch.randn(600, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(600) % 4
    found = linear_probe((noise[:300], labels[:300]), (noise[300:], labels[300:]), deposited=[0])
    assert (found.average or 0) < 40
