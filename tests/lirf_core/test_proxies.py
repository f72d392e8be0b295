import torch

from demo.digits import PREPROCESSING as DIGIT_SIZE
from demo.digits import Digits
from lirf_core.metrics import logits_of
from lirf_core.network import SplitNetwork
from lirf_core.proxies import MAX_OF_EACH, REACH, make_proxies
from tests.lirf_core.factories import CPU, PREPROCESSING, images, network


def made(count: int, of: int = 24, seed: int = 0) -> torch.Tensor:
    pixels, _ = images(of, [0, 1])
    generator = torch.Generator().manual_seed(seed)
    return make_proxies(network(), pixels, torch.tensor([2, 3]), count, PREPROCESSING, CPU, generator).images


def test_the_original_takes_zeros_ones_and_twos_for_other_digits_once_they_are_proxies(
    digits: Digits, digits_network: SplitNetwork
) -> None:
    preserved = torch.arange(3, 10)

    def preserved_share(pixels: torch.Tensor) -> float:
        answers = logits_of(digits_network, pixels, DIGIT_SIZE, CPU).argmax(1)
        return torch.isin(answers, preserved).float().mean().item()

    pixels, _ = digits.tensors(digits.of_classes(digits.training, [0, 1, 2]))
    generator = torch.Generator().manual_seed(0)
    proxies = make_proxies(digits_network, pixels, preserved, 128, DIGIT_SIZE, CPU, generator).images
    assert preserved_share(pixels) < 0.05
    assert preserved_share(proxies) > 0.25


def test_no_value_moves_further_than_the_reach() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, _ = images(24, [0, 1])
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    proxies = make_proxies(network(), pixels, torch.tensor([2, 3]), 24, PREPROCESSING, CPU, generator).images
    moved = (proxies.int() - pixels[order].int()).abs()
    assert 0 < moved.max() <= REACH


def test_few_images_make_few_proxies_and_none_are_made_where_none_are_wanted() -> None:
    assert len(made(1000, of=3)) == 3 * MAX_OF_EACH
    assert len(made(10)) == 10
    assert len(made(0)) == 0


def test_the_same_seed_makes_and_draws_the_same_proxies() -> None:
    assert torch.equal(made(10), made(10))
    assert not torch.equal(made(10), made(10, seed=1))
