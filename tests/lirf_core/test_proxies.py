import torch

from demo.digits import PREPROCESSING as DIGIT_SIZE
from demo.digits import Digits
from lirf_core.config import MAX_PROXIES_PER_IMAGE
from lirf_core.metrics import logits_of
from lirf_core.network import SplitNetwork
from lirf_core.proxies import REACHES, make_proxies
from tests.lirf_core.factories import CPU, PREPROCESSING, images, network


def proxies(count: int, image_count: int = 24, seed: int = 0) -> torch.Tensor:
    pixels, _ = images(image_count, [0, 1])
    generator = torch.Generator().manual_seed(seed)
    return make_proxies(network(), pixels, torch.tensor([2, 3]), count, PREPROCESSING, CPU, generator).images


def test_the_original_reads_proxies_of_zeros_ones_and_twos_as_other_digits(
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
    assert preserved_share(proxies) > 0.95


def test_an_image_changes_no_more_than_the_original_needs_to_be_confident(
    digits: Digits, digits_network: SplitNetwork
) -> None:
    pixels, _ = digits.tensors(digits.of_classes(digits.training, [0, 1, 2]))
    pixels = pixels[:128]
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    proxies = make_proxies(
        digits_network, pixels, torch.arange(3, 10), 128, DIGIT_SIZE, CPU, torch.Generator().manual_seed(0)
    ).images
    moved = (proxies.int() - pixels[order].int()).abs().flatten(1).amax(1)
    assert 0 < moved.min() <= REACHES[0] < moved.max() <= REACHES[-1]
    confidence = logits_of(digits_network, proxies[moved <= REACHES[0]], DIGIT_SIZE, CPU).softmax(1)[:, 3:].amax(1)
    assert confidence.min() > 0.8


def test_few_images_give_few_proxies_and_a_count_of_zero_gives_none() -> None:
    assert len(proxies(1000, image_count=3)) == 3 * MAX_PROXIES_PER_IMAGE
    assert len(proxies(10)) == 10
    assert len(proxies(0)) == 0


def test_the_same_seed_makes_the_same_proxies() -> None:
    assert torch.equal(proxies(10), proxies(10))
    assert not torch.equal(proxies(10), proxies(10, seed=1))
