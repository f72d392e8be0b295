from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lirf_core.checkpoints import ForeignCheckpoint
from lirf_core.config import DepositConfig
from lirf_core.deposit import DepositResult, deposit, deposit_samples, scrub
from lirf_core.losses import margins
from lirf_core.metrics import logits_of
from lirf_core.network import digest
from lirf_core.training import Progress
from tests.lirf_core.factories import CPU, PREPROCESSING, QUICK, images, network

Run = Callable[..., DepositResult]


def whole(config: DepositConfig = QUICK, count: int = 24, **given: object) -> DepositResult:
    pixels, labels = images(count, [0, 1])
    return deposit(network(), pixels, labels, [0, 1], [2, 3, 4], PREPROCESSING, config, CPU, **given)  # type: ignore[arg-type]


def of_samples(config: DepositConfig = QUICK, **given: object) -> DepositResult:
    original, (pixels, labels), (held_out, truth) = network(), images(24, [0, 1]), images(12, [0, 1], seed=1)
    unseen = margins(logits_of(CPU.place(original), held_out, PREPROCESSING, CPU), truth), truth
    return deposit_samples(original, pixels, labels, unseen, range(5), PREPROCESSING, config, CPU, **given)  # type: ignore[arg-type]


class Stop(Exception):
    pass


def checkpoint_at(step: int, run: Callable[..., object]) -> bytes:
    """What a run leaves that dies after this step."""
    kept = []

    def on_step(progress: Progress) -> None:
        if progress.step == step:
            kept.append(progress.checkpoint())
            raise Stop

    with pytest.raises(Stop):
        run(on_step=on_step)
    return kept[0]


@pytest.mark.parametrize("step", [1, 3, 5, 6])
@pytest.mark.parametrize("config", [QUICK, replace(QUICK, pruning_rate=0.0, module_bits=6)], ids=["pruned", "6 bits"])
def test_a_deposit_that_was_stopped_goes_on_as_if_it_had_not_been(step: int, config: DepositConfig) -> None:
    """In the first epoch, at its end, in the second, and after the last step."""
    steps = []

    def run(**given: object) -> DepositResult:
        return whole(config, **given)

    uninterrupted, checkpoint = run(), checkpoint_at(step, run)
    torch.rand(1)  # the random numbers of the process do not matter
    resumed = run(checkpoint=checkpoint, on_step=lambda progress: steps.append(progress.step))
    assert steps == list(range(step + 1, 7))
    assert digest(resumed.target.lower) == digest(uninterrupted.target.lower)
    assert digest(resumed.module.lower) == digest(uninterrupted.module.lower)
    assert resumed.module.weight == uninterrupted.module.weight


def test_so_does_a_deposit_of_single_images() -> None:
    uninterrupted, checkpoint = of_samples(), checkpoint_at(4, of_samples)
    assert digest(of_samples(checkpoint=checkpoint).target.lower) == digest(uninterrupted.target.lower)


def test_so_does_a_scrub() -> None:
    older, (pixels, labels) = whole(replace(QUICK, module_bits=8)).module, images(24, [2])

    def run(**given: object) -> str:
        arguments = pixels, labels, [2], [3, 4], PREPROCESSING, QUICK, CPU
        return digest(scrub(older, network().upper, *arguments, **given).lower)  # type: ignore[arg-type]

    assert run(checkpoint=checkpoint_at(4, run)) == run() != digest(older.lower)


def test_the_checkpoint_of_another_training_is_refused() -> None:
    checkpoint = checkpoint_at(2, whole)
    with pytest.raises(ForeignCheckpoint, match="6 steps on 24 images"):
        whole(count=32, checkpoint=checkpoint)
    with pytest.raises(ForeignCheckpoint):
        whole(replace(QUICK, pruning_rate=0.0), checkpoint=checkpoint)
    for damaged in (b"", checkpoint[:5000], checkpoint[:-1], b"\x00" * 64):
        with pytest.raises(ForeignCheckpoint):
            whole(checkpoint=damaged)
