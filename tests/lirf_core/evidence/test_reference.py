"""The training of a reference: bounded, and the same to the last bit after an interruption."""

import pytest
import torch

from lirf_core.evidence import reference
from lirf_core.evidence.reference import Schooling, epochs_for, train_reference
from lirf_core.images.preprocessing import Augmentation
from lirf_core.metrics import logits_of
from lirf_core.training import Progress
from tests.lirf_core.factories import CPU, PREPROCESSING, SPEC, images

SCHOOLING = Schooling(*images(60, [2, 3, 4], seed=5), PREPROCESSING, Augmentation(0, False))


def test_a_reference_learns_what_it_is_shown_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "LEAST_STEPS", 20)
    network = train_reference(SPEC, "layer3", SCHOOLING, CPU)
    pixels, labels = images(100, [0, 1, 2, 3, 4], seed=1)
    answers = logits_of(network, pixels, PREPROCESSING, CPU).argmax(1)
    assert (answers == labels)[labels >= 2].float().mean() > 0.6
    assert not (answers < 2).any()
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_an_interrupted_training_goes_on_to_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MOST_EPOCHS", 3)
    monkeypatch.setattr(reference, "LEAST_STEPS", 3)
    kept: list[bytes] = []

    def stop(progress: Progress) -> None:
        kept.append(progress.checkpoint())
        if progress.step == 2:
            raise InterruptedError

    state = torch.get_rng_state()
    whole = train_reference(SPEC, "layer3", SCHOOLING, CPU)
    with pytest.raises(InterruptedError):
        train_reference(SPEC, "layer3", SCHOOLING, CPU, stop)
    resumed = train_reference(SPEC, "layer3", SCHOOLING, CPU, checkpoint=kept[-1])
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_few_images_are_seen_often_and_large_ones_seldom() -> None:
    assert epochs_for(40, 64, 128) == 200  # a step an epoch
    assert epochs_for(900, 256, 128) == 30
    assert epochs_for(50_000, 32 * 32, 128) == 24
    assert epochs_for(100_000, 224 * 224, 32) == 1
