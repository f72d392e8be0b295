from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from lirf_core.checkpoints import ForeignCheckpoint
from lirf_core.config import DepositConfig
from lirf_core.deposit import DepositResult, UnseenMargins, deposit, deposit_samples, scrub
from lirf_core.losses import margins
from lirf_core.metrics import logits_of
from lirf_core.network import digest
from lirf_core.training import Progress, Run
from tests.lirf_core.factories import CPU, PREPROCESSING, QUICK, images, lesson, network


def deposit_classes(config: DepositConfig = QUICK, count: int = 24, **callbacks: Any) -> DepositResult:
    return deposit(network(), lesson(count), Run(config, CPU, **callbacks))


def deposit_single_images(**callbacks: Any) -> DepositResult:
    original, (held_out, truth) = network(), images(12, [0, 1], seed=1)
    unseen = UnseenMargins(margins(logits_of(CPU.place(original), held_out, PREPROCESSING, CPU), truth), truth)
    return deposit_samples(original, lesson(), unseen, Run(QUICK, CPU, **callbacks))


class Stop(Exception):
    pass


def checkpoint_at(step: int, run: Callable[..., object]) -> bytes:
    """The checkpoint of a run that stops after this step."""
    checkpoints = []

    def on_step(progress: Progress) -> None:
        if progress.step == step:
            checkpoints.append(progress.checkpoint())
            raise Stop

    with pytest.raises(Stop):
        run(on_step=on_step)
    return checkpoints[0]


@pytest.mark.parametrize("step", [1, 3, 5, 6])
@pytest.mark.parametrize("config", [QUICK, replace(QUICK, pruning_rate=0.0, module_bits=6)], ids=["pruned", "6 bits"])
def test_a_stopped_deposit_goes_on_to_the_same_result_to_the_last_bit(step: int, config: DepositConfig) -> None:
    """In the first epoch, at its end, in the second, and after the last step."""
    steps = []

    def run(**callbacks: Any) -> DepositResult:
        return deposit_classes(config, **callbacks)

    uninterrupted, checkpoint = run(), checkpoint_at(step, run)
    torch.rand(1)  # the process's own random numbers do not matter
    resumed = run(checkpoint=checkpoint, on_step=lambda progress: steps.append(progress.step))
    assert steps == list(range(step + 1, 7))
    assert digest(resumed.target.lower) == digest(uninterrupted.target.lower)
    assert digest(resumed.module.lower) == digest(uninterrupted.module.lower)
    assert resumed.module.weight == uninterrupted.module.weight


def test_a_stopped_deposit_of_single_images_goes_on_to_the_same_result() -> None:
    uninterrupted, checkpoint = deposit_single_images(), checkpoint_at(4, deposit_single_images)
    assert digest(deposit_single_images(checkpoint=checkpoint).target.lower) == digest(uninterrupted.target.lower)


def test_a_stopped_scrub_goes_on_to_the_same_result() -> None:
    older = deposit_classes(replace(QUICK, module_bits=8)).module

    def run(**callbacks: Any) -> str:
        return digest(scrub(older, network().upper, lesson(24, [2], [3, 4]), Run(QUICK, CPU, **callbacks)).lower)

    assert run(checkpoint=checkpoint_at(4, run)) == run() != digest(older.lower)


def test_the_checkpoint_of_another_training_is_refused() -> None:
    checkpoint = checkpoint_at(2, deposit_classes)
    with pytest.raises(ForeignCheckpoint, match="6 steps on 24 images"):
        deposit_classes(count=32, checkpoint=checkpoint)
    with pytest.raises(ForeignCheckpoint):
        deposit_classes(replace(QUICK, pruning_rate=0.0), checkpoint=checkpoint)
    for damaged in (b"", checkpoint[:5000], checkpoint[:-1], b"\x00" * 64):
        with pytest.raises(ForeignCheckpoint):
            deposit_classes(checkpoint=damaged)
