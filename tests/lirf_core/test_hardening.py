from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lirf_core import hardening, losses
from lirf_core.architectures import ArchitectureSpec, build
from lirf_core.checkpoints import ForeignCheckpoint
from lirf_core.class_rows import last_layer
from lirf_core.config import HARDENED_PER_DEPOSITED, MAX_PROXIES_PER_IMAGE, DepositConfig, HardeningConfig
from lirf_core.features import answers_of
from lirf_core.hardening import HardeningRun, Transfer, cut_and_mix, harden, mix
from lirf_core.images.preprocessing import Augmentation
from lirf_core.network import SplitNetwork, digest
from lirf_core.training import DepositDiverged, Progress
from tests.lirf_core.factories import CPU, PREPROCESSING, SPEC, images, network

PRESERVED = [2, 3, 4]
QUICK = HardeningConfig(epochs=2, batch_size=8, augmentation=Augmentation(1, False))
LEARNING = replace(SPEC, width=0.25)  # learns something in a few steps


def hardened(config: HardeningConfig = QUICK, spec: ArchitectureSpec = SPEC, **options: Any) -> SplitNetwork:
    transfer = Transfer(images(24, [0, 1])[0], PRESERVED, PREPROCESSING)
    return harden(network(0, spec), network(1, spec), transfer, HardeningRun(config, CPU, **options))


def whole(one: SplitNetwork) -> tuple[str, str]:
    return digest(one.lower), digest(one.upper)


def test_a_hardened_network_learns_the_targets_answers_among_the_preserved_classes() -> None:
    target, untrained, pixels = network(0, LEARNING), network(1, LEARNING), images(40, [0, 1], seed=1)[0]
    before = whole(target)
    transfer = Transfer(images(60, [0, 1])[0], PRESERVED, PREPROCESSING)
    result = harden(target, untrained, transfer, HardeningRun(replace(QUICK, epochs=12), CPU))
    assert whole(target) == before
    inputs = CPU.inputs(pixels, PREPROCESSING)
    taught, learnt, fresh = target(inputs)[:, PRESERVED], result(inputs), untrained(inputs)[:, PRESERVED]
    assert learnt.shape == taught.shape

    def distance(logits: torch.Tensor) -> float:
        return nn.functional.kl_div(logits.log_softmax(1), taught.softmax(1), reduction="batchmean").item()

    assert distance(learnt) < distance(fresh) / 2


def test_the_same_seed_gives_the_same_network_to_the_last_bit() -> None:
    assert whole(hardened()) == whole(hardened()) != whole(hardened(replace(QUICK, seed=1)))


def test_a_hardening_goes_on_from_its_checkpoint_to_the_same_network() -> None:
    config, checkpoints = replace(QUICK, average_decay=0.9), []
    uninterrupted = hardened(config, on_step=lambda progress: checkpoints.append(progress.checkpoint()))
    assert len(checkpoints) == 6
    for checkpoint in checkpoints[1:4]:
        assert whole(hardened(config, checkpoint=checkpoint)) == whole(uninterrupted)
    with pytest.raises(ForeignCheckpoint):
        hardened(replace(config, epochs=3), checkpoint=checkpoints[0])


def test_the_features_hold_little_besides_the_answers() -> None:
    pixels = images(40, [0, 1], seed=1)[0]

    def held(weight: float) -> float:
        one = hardened(replace(QUICK, epochs=12, lambda_ur=weight), LEARNING)
        features = answers_of(one.lower, one.upper, pixels, PREPROCESSING, CPU).features
        return losses.unread(features, last_layer(one.upper).weight).item()

    assert held(5.0) < held(0.0) / 2


@pytest.mark.parametrize(("share", "mixed"), [(0.0, 0), (0.5, 3), (1.0, 6)])
def test_the_last_steps_learn_from_whole_images(share: float, mixed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(hardening, "cut_and_mix", lambda inputs, _: sizes.append(len(inputs)) or inputs)
    hardened(replace(QUICK, mixed=share))
    assert len(sizes) == mixed


def test_raising_in_a_step_stops_the_hardening() -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise Stop

    with pytest.raises(Stop):
        hardened(on_step=stop)


def test_an_absurd_learning_rate_fails_with_advice() -> None:
    with pytest.raises(DepositDiverged, match="Lower learning_rate"):
        hardened(replace(QUICK, learning_rate=1e30))


def test_the_averaged_weights_lie_between_those_of_the_steps() -> None:
    assert whole(hardened(replace(QUICK, average_decay=0.9))) != whole(hardened())
    still, start = hardened(replace(QUICK, average_decay=1.0)), hardened(replace(QUICK, learning_rate=0.0))
    for (name, one), (_, other) in zip(still.named_parameters(), start.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        ArchitectureSpec("resnet18-small", 5, width=0.25),
        ArchitectureSpec("vit_b_32", 5, image_size=32),
        ArchitectureSpec("convnext_tiny", 5),
    ],
)
def test_every_layer_is_mixed_with_fresh_weights_in_proportion_to_its_depth(spec: ArchitectureSpec) -> None:
    known, fresh, mixed = (build(spec).lower for _ in range(3))
    mixed.load_state_dict(known.state_dict())
    with torch.no_grad():
        for parameter in known.parameters():
            parameter.fill_(0.0)
        for parameter in mixed.parameters():
            parameter.fill_(0.0)
        for parameter in fresh.parameters():
            parameter.fill_(1.0)
    mix(mixed, fresh, 0.25, 0.75)
    shares = [parameter.unique().tolist() for parameter in mixed.parameters()]
    assert all(len(share) == 1 for share in shares)
    by_layer = [
        {round(own.item(), 6) for parameter in module.parameters(recurse=False) for own in parameter.unique()}
        for module in mixed.modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    assert all(len(share) == 1 for share in by_layer)
    rising = [share.pop() for share in by_layer]
    assert (rising[0], rising[-1]) == (0.25, 0.75)
    assert rising == sorted(rising)
    assert len(set(rising)) == len(rising)


def test_a_box_of_another_image_replaces_a_part_of_each_image() -> None:
    batch = torch.arange(6.0)[:, None, None, None].expand(6, 1, 8, 8)
    generator, areas = torch.Generator().manual_seed(0), []
    for _ in range(200):
        mixed = cut_and_mix(batch, generator)
        is_other = mixed != batch
        values = [image.unique() for image in mixed]
        assert all(len(one) <= 2 for one in values)
        areas += [one.float().mean().item() for one in is_other if one.any()]
    assert 0.4 < sum(areas) / len(areas) < 0.6
    assert torch.equal(batch[:, 0, 0, 0], torch.arange(6.0))


@pytest.mark.parametrize("images", [8, 40, 1_000, 50_000])
def test_a_hardening_like_a_deposit_takes_the_time_of_two(images: int) -> None:
    deposit = DepositConfig()
    config = HardeningConfig.like(deposit, images)
    steps = deposit.epochs_for(-(-images // 128)) * -(-images // 128)
    learnt = (config.epochs or 0) * (images + min(config.proxies, MAX_PROXIES_PER_IMAGE * images))
    assert learnt == pytest.approx(HARDENED_PER_DEPOSITED * steps * (min(images, 128) + 64), rel=0.1)
