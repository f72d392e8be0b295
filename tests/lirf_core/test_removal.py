"""What a training keeps away from classes of other deposits."""

import copy

import torch
from torch import Tensor

from lirf_core import class_rows as rows
from lirf_core import losses
from lirf_core.deposit import _foreign
from lirf_core.removal import Batch, ClassRemoval, Outputs
from lirf_core.training import Parts, Run, Trainer
from tests.lirf_core.factories import CPU, QUICK, lesson, network


def outputs(seed: int) -> Outputs:
    """Of two deposit images, two proxies and a preserved image."""
    generator, features = torch.Generator().manual_seed(seed), rows.last_layer(network().upper).in_features
    return Outputs(*(torch.randn(5, *shape, generator=generator) for shape in ((6, 2, 2), (features,), (5,))))


def batch(foreign: list[int], target: Outputs) -> Batch:
    return Batch(2, torch.tensor([0, 1]), torch.tensor([0, 0]), target, outputs(1), torch.tensor(foreign))


def changed(target: Outputs, place: int) -> Outputs:
    copied = copy.deepcopy(target)
    copied.split[place] += 1
    copied.features[place] += 1
    return copied


def test_features_are_kept_on_preserved_images_and_their_proxies_only() -> None:
    target = outputs(0)

    def kept(of: Outputs, foreign: list[int]) -> Tensor:
        return batch(foreign, of).feature_preservation()

    for place, matters in enumerate([False, False, False, True, True]):
        assert (kept(changed(target, place), [2]) == kept(target, [2])) != matters
    assert kept(changed(target, 2), []) != kept(target, [])


def test_a_foreign_class_is_pushed_down_where_its_proxies_are() -> None:
    deposited, preserved, foreign = torch.tensor([0]), torch.tensor([2, 3, 4]), torch.tensor([1])
    removal = ClassRemoval(network(), deposited, preserved, foreign, QUICK)
    assert removal.goals.tolist() == [2, 3, 4, 1]
    target = outputs(0)
    found = removal.terms(batch([3], target), torch.Generator())
    expected = losses.suppression(target.logits[[0, 1, 3]], preserved) - QUICK.lambda_at * found["at"]
    assert torch.allclose(found["kr"], expected)


def test_classes_of_other_deposits_are_foreign_if_their_rows_are_in_place() -> None:
    whole = network()
    assert _foreign(whole, lesson(8, [1], [2, 3, 4])) == {0}
    assert _foreign(whole, lesson(8, [0, 1], [2, 3, 4])) == set()
    rows.remove(whole, [0])
    assert _foreign(whole, lesson(8, [1], [2, 3, 4])) == set()


def test_proxies_of_a_later_deposit_imitate_classes_of_other_deposits_too() -> None:
    whole, later = network(), lesson(24, [1], [2, 3, 4])
    removal = ClassRemoval(whole, torch.tensor([1]), torch.tensor([2, 3, 4]), torch.tensor([0]), QUICK)
    trainer = Trainer(Parts(whole, None, None, None, whole), removal, later, Run(QUICK, CPU))
    assert set(trainer.proxies.classes.tolist()) == {0, 2, 3, 4}


def test_deposit_images_count_less_in_kp_of_a_depthwise_network() -> None:
    original, target = outputs(1), outputs(0)
    removal = ClassRemoval(network(), *(torch.tensor(classes) for classes in ([0], [1, 2, 3, 4], [])), QUICK)
    one = Batch(2, torch.tensor([0, 1]), torch.tensor([0, 0]), target, original, torch.tensor([], dtype=torch.int64))
    by_image = [
        losses.distil(target.logits[[place]], original.logits[[place]], torch.tensor([1, 2, 3, 4]), QUICK.temperature)
        for place in range(5)
    ]
    for is_adaptive, weights in ((False, (1, 1, 1, 1, 1)), (True, (0.3, 0.3, 1, 1, 1))):
        removal.is_adaptive = is_adaptive
        expected = sum(weight * loss for weight, loss in zip(weights, by_image, strict=True)) / 5
        torch.testing.assert_close(removal.terms(one, torch.Generator().manual_seed(0))["kp"], expected)
