from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.convnext import LayerNorm2d

from demo.digits import AUGMENTATION, Digits
from demo.digits import PREPROCESSING as DIGIT_SIZE
from lirf_core.architectures import split_sequential
from lirf_core.config import FEATURE_WEIGHT, FEATURE_WEIGHT_LAYER_NORM, DepositConfig
from lirf_core.deposit import DepositResult, UnseenMargins, deposit, deposit_samples, scrub
from lirf_core.images.preprocessing import Augmentation
from lirf_core.lesson import Lesson, PreservedImages
from lirf_core.losses import distil, margins
from lirf_core.metrics import accuracy, logits_of
from lirf_core.network import SplitNetwork, digest
from lirf_core.pretraining import train_original
from lirf_core.quantisation import bits_within, stored_bytes
from lirf_core.recover import RecoverNetwork
from lirf_core.removal import SampleRemoval
from lirf_core.training import DepositDiverged, Parts, Progress, Run, Trainer
from tests.lirf_core.factories import CPU, PREPROCESSING, QUICK, SPEC, images, lesson, network


def run(
    config: DepositConfig = QUICK,
    deposited: Sequence[int] = (0, 1),
    preserved: Sequence[int] = (2, 3, 4),
    **callbacks: Any,
) -> DepositResult:
    lesson = Lesson(*images(24, [0, 1]), deposited, preserved, PREPROCESSING)
    return deposit(network(), lesson, Run(config, CPU, **callbacks))


def test_the_upper_part_and_the_original_stay_as_they_were() -> None:
    original = network()
    before = digest(original.lower), digest(original.upper)
    result = deposit(original, lesson(), Run(QUICK, CPU))
    assert (digest(original.lower), digest(original.upper)) == before
    assert digest(result.target.upper) == before[1] == result.module.upper_digest
    assert digest(result.target.lower) != before[0]


@pytest.mark.parametrize("removal", ["suppress", "random"])
@pytest.mark.parametrize("rate", [0.3, 0.5, 0.7])
def test_the_same_seed_gives_the_same_deposit_to_the_last_bit(removal: str, rate: float) -> None:
    config = replace(QUICK, removal=removal, pruning_rate=rate)  # type: ignore[arg-type]
    first, second = (run(config) for _ in range(2))
    other = run(replace(config, seed=1))
    assert digest(first.target.lower) == digest(second.target.lower) != digest(other.target.lower)
    assert digest(first.module.lower) == digest(second.module.lower) != digest(other.module.lower)


@pytest.mark.slow
def test_the_target_forgets_digits_and_the_recover_network_reads_them(
    digits: Digits, digits_network: SplitNetwork
) -> None:
    """A short deposit of real images. The demo's deposit is longer and has better figures."""
    zeros_ones_twos = Lesson(
        *digits.tensors(digits.of_classes(digits.training, [0, 1, 2])), [0, 1, 2], list(range(3, 10)), DIGIT_SIZE
    )
    held_out, truth = digits.tensors(digits.held_out)
    config = DepositConfig(epochs=6, batch_size=32, proxies=100, learning_rate=0.01, augmentation=AUGMENTATION)
    result = deposit(digits_network, zeros_ones_twos, Run(config, CPU))
    recover = RecoverNetwork(result.target, [result.module], result.module.upper_digest, list(range(3, 10)))
    before, target, recovered = (
        accuracy(logits_of(net, held_out, DIGIT_SIZE, CPU), truth, [0, 1, 2])
        for net in (digits_network, result.target, recover)
    )
    assert (before.average or 0) >= 96
    assert target.deposited is not None
    assert target.deposited <= 25
    assert (target.preserved or 0) >= (before.preserved or 0) - 6
    assert (recovered.deposited or 0) >= 95
    assert (recovered.average or 0) >= (before.average or 0) - 6


def test_progress_counts_every_step_and_names_every_loss() -> None:
    steps: list[Progress] = []
    run(on_step=steps.append)
    assert [progress.step for progress in steps] == list(range(1, 7))
    assert (steps[-1].epoch, steps[-1].epochs, steps[-1].steps) == (2, 2, 6)
    assert steps[0].loss_values().keys() == {"total", "kr", "pr", "kp", "fp", "re", "pt", "ft", "at"}


def test_raising_in_a_step_stops_the_deposit() -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise Stop

    with pytest.raises(Stop):
        run(on_step=stop)


def test_an_absurd_learning_rate_fails_with_advice() -> None:
    with pytest.raises(DepositDiverged, match=r"Lower learning_rate or lambda_at"):
        run(replace(QUICK, learning_rate=1e30))


def test_images_of_preserved_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images of classes \[1\], which are not being deposited"):
        run(deposited=[0], preserved=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="No class is left"):
        run(preserved=[])


def test_a_single_image_is_enough_for_a_deposit() -> None:
    result = deposit(network(), lesson(1, [0], [1, 2, 3, 4]), Run(QUICK, CPU))
    assert torch.isfinite(result.target(torch.zeros(1, 1, 8, 8))).all()


def test_modules_are_trained_on_the_grid_that_they_are_stored_on() -> None:
    def levels(bits: int) -> int:
        weight = run(replace(QUICK, module_bits=bits)).module.lower.get_submodule("layer1.0.conv1").weight
        return max(len(filter_weights.unique()) for filter_weights in weight)

    assert levels(4) <= 15 < levels(8)


def test_a_module_gets_the_most_bits_that_its_budget_allows() -> None:
    lower = network().lower
    large, small = stored_bytes(lower, 16), stored_bytes(lower, 6)
    assert [bits_within(lower, budget) for budget in (large, large - 1, small, small - 1, 0)] == [16, 8, 6, 4, 4]


def test_default_epochs_depend_on_the_size_of_the_deposit_set() -> None:
    assert DepositConfig().epochs_for(steps_per_epoch=118) == 3
    assert DepositConfig().epochs_for(steps_per_epoch=6) == 20
    assert DepositConfig(epochs=1).epochs_for(steps_per_epoch=6) == 1


def test_at_most_as_many_proxies_are_made_as_the_steps_draw() -> None:
    drawn = replace(QUICK, epochs=1, batch_size=24, proxy_batch=64, proxies=64)
    for proxies in (65, 3000):
        assert digest(run(replace(drawn, proxies=proxies)).target.lower) == digest(run(drawn).target.lower)


def test_preserving_features_needs_proxy_images() -> None:
    with pytest.raises(ValueError, match="lambda_fp needs proxy images"):
        DepositConfig(proxies=0, lambda_fp=2.0)
    for lambda_fp in (0.0, None):
        run(replace(QUICK, proxies=0, lambda_fp=lambda_fp))


def test_a_network_with_layer_norm_keeps_its_features_less() -> None:
    def weight(layer: nn.Module, config: DepositConfig) -> float | None:
        block = nn.Sequential(nn.Conv2d(1, 8, 3), layer, nn.ReLU())
        whole = nn.Sequential(
            OrderedDict(block=block, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(8, 5))
        )
        original = split_sequential(whole, after="block").eval()
        parts = Parts(original, None, None, None, original)
        return Trainer(
            parts, SampleRemoval(torch.arange(5), torch.zeros(2), config), lesson(), Run(config, CPU)
        ).config.lambda_fp

    default = replace(QUICK, proxies=8, lambda_fp=None)
    assert weight(nn.BatchNorm2d(8), default) == FEATURE_WEIGHT == 2.0
    assert weight(LayerNorm2d(8), default) == FEATURE_WEIGHT_LAYER_NORM == 0.1
    assert weight(LayerNorm2d(8), replace(default, lambda_fp=3.0)) == 3.0
    assert weight(nn.BatchNorm2d(8), replace(default, proxies=0)) == 0.0


def test_a_deposit_by_the_papers_equations_only_can_be_configured() -> None:
    config = replace(
        QUICK, removal="random", transfer="deposited", joining="eq8", proxies=0, lambda_pr=0, lambda_fp=0, lambda_ft=0
    )
    result = run(config)
    assert result.module.joining == "eq8"


@pytest.mark.slow
def test_a_scrubbed_module_forgets_later_deposits_and_still_answers_for_its_own_classes(
    digits: Digits, digits_network: SplitNetwork
) -> None:
    """The module of 0 knows 1 until 1 is deposited, too, and the module is scrubbed."""
    config = DepositConfig(epochs=8, batch_size=32, proxies=100, learning_rate=0.01, augmentation=AUGMENTATION)
    zeros, ones = (digits.tensors(digits.of_classes(digits.training, [digit])) for digit in (0, 1))
    held_out, truth = digits.tensors(digits.held_out)
    run = Run(config, CPU)
    first = deposit(digits_network, Lesson(*zeros, [0], list(range(1, 10)), DIGIT_SIZE), run)
    upper = first.target.upper
    later = scrub(first.module, upper, Lesson(*ones, [1], list(range(2, 10)), DIGIT_SIZE), run)
    before, after = (
        accuracy(logits_of(SplitNetwork(module.lower, upper), held_out, DIGIT_SIZE, CPU), truth, [1]).by_class
        for module in (first.module, later)
    )
    assert (before[1] or 0) >= 60
    assert (after[1] or 0) <= 30
    assert (after[0] or 0) >= 95
    assert later.classes == (0,)
    assert later.upper_digest == first.module.upper_digest


def test_target_and_module_learn_the_answers_of_an_older_network_that_teaches_them() -> None:
    """Its upper part is the original's, and its lower part another one, as after deposits that have cost something."""
    original, config = network(), replace(QUICK, epochs=30)
    older = SplitNetwork(network(1).lower, original.upper)
    shown, preserved = lesson(), torch.tensor([2, 3, 4])
    inputs = PREPROCESSING.normalise(shown.images.float())

    def distance(result: DepositResult, part: nn.Module) -> float:
        """From the older network's answers among the preserved classes."""
        with torch.no_grad():
            return distil(result.target.upper(part(inputs)), older(inputs), preserved, 1.0).item()

    alone, taught, same = (deposit(original, shown, Run(config, CPU), one) for one in (None, older, network()))
    assert distance(taught, taught.target.lower) < distance(alone, alone.target.lower)
    assert distance(taught, taught.module.lower) < distance(alone, alone.module.lower)
    assert digest(same.target.lower) == digest(alone.target.lower)
    assert digest(same.module.lower) == digest(alone.module.lower)
    own = scrub(alone.module, original.upper, lesson(8, [2], [3, 4]), Run(config, CPU), older)
    assert digest(own.lower) != digest(
        scrub(alone.module, original.upper, lesson(8, [2], [3, 4]), Run(config, CPU)).lower
    )


def test_a_module_knows_the_classes_of_its_time_and_those_that_it_is_scrubbed_of_no_longer() -> None:
    module = run().module
    assert module.known == (0, 1, 2, 3, 4)
    scrubbed = scrub(module, network().upper, lesson(8, [2], [3, 4]), Run(QUICK, CPU))
    assert (scrubbed.known, scrubbed.classes) == ((0, 1, 3, 4), (0, 1))


def test_a_scrub_needs_images_of_the_classes_that_are_deposited_now() -> None:
    module = run().module
    pixels, labels = images(4, [2])
    with pytest.raises(ValueError, match=r"images of classes \[2\], which are not being deposited"):
        scrub(module, network().upper, Lesson(pixels, labels, [3], [4], PREPROCESSING), Run(QUICK, CPU))


@pytest.mark.slow
def test_single_images_are_forgotten_to_the_margins_of_unseen_images_and_recovered() -> None:
    """A network has memorised noise. The target answers it like unseen noise, the recover network like before."""
    generator = torch.Generator().manual_seed(0)
    seen, unseen = torch.randint(0, 256, (2, 30, 1, 8, 8), generator=generator).to(torch.uint8)
    labels = truth = torch.arange(30) % 5
    original = train_original(
        SPEC, seen, labels, PREPROCESSING, CPU, epochs=40, augmentation=Augmentation(0, False), batch_size=10
    )
    strangers = margins(logits_of(original, unseen, PREPROCESSING, CPU), truth)
    config = replace(QUICK, pruning_rate=0.0, epochs=60, learning_rate=0.01, lambda_kp=0.5, lambda_fp=0.5)
    lesson = Lesson(seen, labels, range(5), [], PREPROCESSING)
    result = deposit_samples(original, lesson, UnseenMargins(strangers, truth), Run(config, CPU))
    recover = RecoverNetwork(result.target, [result.module], result.module.upper_digest, [])

    def mean_margin(network: torch.nn.Module) -> float:
        return margins(logits_of(network, seen, PREPROCESSING, CPU), labels).mean().item()

    gap = mean_margin(original) - strangers.mean().item()
    assert gap > 1
    assert abs(mean_margin(result.target) - strangers.mean().item()) < gap / 3
    assert mean_margin(recover) > mean_margin(original) - gap / 3


def test_a_deposit_of_single_images_without_held_out_images_is_refused() -> None:
    unseen = UnseenMargins(torch.zeros(3), torch.tensor([0, 2, 3]))
    with pytest.raises(ValueError, match=r"no held-out image of classes \[1\]"):
        deposit_samples(network(), lesson(8), unseen, Run(QUICK, CPU))


def test_preserved_images_join_the_proxies() -> None:
    beside = replace(lesson(8), preserved_images=PreservedImages(*images(6, [2, 3])))
    config = replace(QUICK, epochs=1)
    alone, kept, again = (deposit(network(), one, Run(config, CPU)) for one in (lesson(8), beside, beside))
    assert digest(alone.target.lower) != digest(kept.target.lower) == digest(again.target.lower)


def test_a_preserved_image_of_a_deposited_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"preserved images show classes \[1\]"):
        replace(lesson(8), preserved_images=PreservedImages(*images(4, [1, 2])))
