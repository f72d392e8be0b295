"""Small networks, images and lessons for the tests of lirf_core."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lirf_core import artifacts
from lirf_core.architectures import ArchitectureSpec, build, empty
from lirf_core.belonging import Belonging
from lirf_core.compute import Compute
from lirf_core.config import DepositConfig
from lirf_core.deposit import DepositResult, deposit
from lirf_core.images.preprocessing import Augmentation, Preprocessing
from lirf_core.lesson import Lesson
from lirf_core.network import SplitNetwork, digest, flat_state, freeze, load_flat_state
from lirf_core.training import Run

CPU = Compute.for_inference("cpu")
SPEC = ArchitectureSpec("resnet18-small", classes=5, width=0.125, channels=1)
PREPROCESSING = Preprocessing(8, 8, (0.5,), (0.5,))
QUICK = DepositConfig(
    epochs=2, batch_size=8, proxies=16, proxy_batch=4, pruning_rate=0.5, augmentation=Augmentation(1, False)
)


def network(seed: int = 0, spec: ArchitectureSpec = SPEC, split: str = "layer2") -> SplitNetwork:
    """A frozen network. Its weights are drawn once and copied, because they do not depend on the split."""
    network = empty(spec, split)
    load_flat_state(network, _weights(seed, spec))
    freeze(network)
    return network


@lru_cache(8)
def _weights(seed: int, spec: ArchitectureSpec) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return flat_state(build(spec))


def images(count: int, classes: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """uint8 (count, 1, 8, 8) and labels. Each class has its own bright row, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes)[torch.arange(count) % len(classes)]
    pixels = torch.randint(0, 150, (count, 1, 8, 8), generator=generator)
    pixels[torch.arange(count), 0, labels] += 100
    return pixels.to(torch.uint8), labels


def lesson(
    count: int = 24, deposited: Sequence[int] = (0, 1), preserved: Sequence[int] = (2, 3, 4), seed: int = 0
) -> Lesson:
    """`count` images of the deposited classes."""
    return Lesson(*images(count, list(deposited), seed), deposited, preserved, PREPROCESSING)


def belonging(network: SplitNetwork, split: str = "layer2") -> Belonging:
    return Belonging(SPEC, split, digest(network.upper))


def dump_upper(network: SplitNetwork, belonging: Belonging) -> bytes:
    """The whole upper part as one part of format `lirf/1`, as earlier versions stored it."""
    return artifacts._dump(network.upper.state_dict(), belonging.metadata("upper"))


def deposit_of(original: SplitNetwork, preprocessing: Preprocessing, **callbacks: Any) -> DepositResult:
    """A deposit of classes 0 and 1 of five: two steps on six images, with eq. 8 as written."""
    generator = torch.Generator().manual_seed(0)
    shape = (6, preprocessing.channels, preprocessing.height, preprocessing.width)
    pixels = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    config = replace(QUICK, epochs=1, batch_size=3, joining="eq8")
    lesson = Lesson(pixels, torch.tensor([0, 1] * 3), [0, 1], [2, 3, 4], preprocessing)
    return deposit(original, lesson, Run(config, CPU, **callbacks))
