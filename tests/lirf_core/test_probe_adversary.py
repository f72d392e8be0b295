import torch

from lirf_core import losses
from lirf_core.class_rows import last_layer
from lirf_core.features import LastFeatures, answers_of
from lirf_core.probe_adversary import ProbeAdversary
from tests.lirf_core.factories import CPU, PREPROCESSING, images, network


def separable_features(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of two classes, 1 and 4, that differ in one direction."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([1, 4]).repeat(32)
    features = torch.randn(64, last_layer(network().upper).in_features, generator=generator)
    features[labels == 4, 0] += 4.0
    return features, labels


def test_the_probe_learns_from_the_features_and_the_loss_removes_what_it_reads() -> None:
    adversary = ProbeAdversary(network(), torch.tensor([1, 4]))
    for seed in range(50):
        adversary.learn(*separable_features(seed))
    features, labels = separable_features(99)
    places = adversary.logits(features).argmax(1)
    assert ((places == (labels == 4)).float().mean()) > 0.9

    features.requires_grad_()
    before = losses.probe_removal(adversary.logits(features))
    before.backward()
    assert features.grad is not None
    after = losses.probe_removal(adversary.logits(features - 20 * features.grad))
    assert after < before
    assert adversary.weight.grad is None or adversary.weight.requires_grad


def test_the_last_features_are_the_input_of_the_last_linear_layer() -> None:
    net = network()
    pixels, _ = images(6, [0, 1])
    answers = answers_of(net.lower, net.upper, pixels, PREPROCESSING, CPU, batch=4)
    assert torch.allclose(last_layer(net.upper)(answers.features), answers.logits, atol=1e-5)
    assert torch.allclose(net.lower(CPU.inputs(pixels, PREPROCESSING)).mean((2, 3)), answers.split, atol=1e-5)
    with LastFeatures(net.upper) as last:
        net(CPU.inputs(pixels, PREPROCESSING))
    assert torch.allclose(last.latest, answers.features, atol=1e-5)
