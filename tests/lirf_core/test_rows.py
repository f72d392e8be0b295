import torch

from lirf_core.features import classifier
from lirf_core.network import digest
from lirf_core.rows import with_rows, without_rows
from tests.lirf_core.factories import images, network


def test_a_network_without_rows_answers_the_other_classes_as_before() -> None:
    whole, pixels = network(), images(6, [0, 1, 2])[0].float()
    before = digest(whole.upper)
    smaller = without_rows(whole, [4, 2, 3])
    assert torch.allclose(smaller(pixels), whole(pixels)[:, 2:], atol=1e-4)
    assert classifier(smaller.upper).out_features == 3
    assert digest(whole.upper) == before


def test_new_rows_are_the_mean_of_the_others_and_say_nothing() -> None:
    whole, pixels = network(), images(6, [0, 1, 2])[0].float()
    logits = with_rows(without_rows(whole, [1, 3, 4]), [1, 3, 4], 5)(pixels)
    assert torch.allclose(logits[:, [1, 3, 4]], whole(pixels)[:, [1, 3, 4]], atol=1e-4)
    for created in (0, 2):
        assert torch.allclose(logits[:, created], logits[:, [1, 3, 4]].mean(1), atol=1e-4)


def test_a_network_with_every_row_stays_as_it_is() -> None:
    assert digest(with_rows(network(), range(5), 5).upper) == digest(network().upper)
