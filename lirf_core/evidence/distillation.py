"""Distillation leak: does a student of the target learn the deposited classes from it (the paper's Table 3)?

As in the paper a student also sees the ground truth, so that its accuracy falls little by itself: what it learns with
no teacher is the yardstick.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from lirf_core import losses
from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Augmentation, Preprocessing
from lirf_core.network import SplitNetwork, freeze

Distillation = Literal["logits", "attention"]
ATTENTION_WEIGHT = 1000.0  # beta of Zagoruyko and Komodakis, 2017
LEARNING_RATE = 0.05
TEMPERATURE = 4.0


def plain_cnn(channels: int, classes: int, features: tuple[int, int, int], width: int = 32) -> SplitNetwork:
    """Three convolutions to the split, whose features (C, H, W) have the teacher's size there, and two behind it."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    depth, height, broad = features
    lower = nn.Sequential(
        *block(channels, width, 1),
        *block(width, width, 1),
        *block(width, depth, 2),
        nn.AdaptiveAvgPool2d((height, broad)),  # which leaves features of that size as they are
    )
    upper = nn.Sequential(
        *block(depth, 2 * depth, 2),
        *block(2 * depth, 2 * depth, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * depth, classes),
    )
    return SplitNetwork(lower, upper)


def features_at_split(network: SplitNetwork, preprocessing: Preprocessing) -> tuple[int, int, int]:
    """(C, H, W) of one image's features there."""
    example = torch.zeros(1, preprocessing.channels, preprocessing.height, preprocessing.width)
    with torch.inference_mode():
        depth, height, width = network.lower(example.to(next(network.parameters()).device)).shape[1:]
    return depth, height, width


def taught(
    student: SplitNetwork,
    teacher: SplitNetwork | None,
    images: Tensor,
    labels: Tensor,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    compute: Compute,
    distillation: Distillation,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = LEARNING_RATE,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    on_step: Callable[[int, int], None] = lambda *_: None,
) -> SplitNetwork:
    """The student, trained by ground truth and, where there is one, by the teacher; frozen.

    images: uint8 (N, C, H, W); labels: (N,). By attention, student and teacher have features of the same height and
    width at their splits. `on_step` is told the step and how many there are; it stops the training by raising.
    """
    generator = Generator().manual_seed(seed)
    student = compute.place(student).train()
    teacher = compute.place(teacher) if teacher else None
    images, labels = images.to(compute.device), labels.to(compute.device)
    per_epoch = -(-len(images) // batch_size)
    optimiser = torch.optim.SGD(student.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4)
    schedule = OneCycleLR(optimiser, learning_rate, total_steps=per_epoch * epochs)
    step = 0
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).tensor_split(per_epoch):
            chosen = chosen.to(compute.device)
            inputs = compute.inputs(augmentation(images[chosen], generator), preprocessing)
            with compute.autocast():
                features = student.lower(inputs)
                logits = student.upper(features).float()
            loss = F.cross_entropy(logits, labels[chosen])
            if teacher:
                with torch.no_grad(), compute.autocast():
                    told = teacher.lower(inputs)
                    wanted = teacher.upper(told).float() if distillation == "logits" else None
                loss = loss + _distilled(temperature, logits, wanted, features, told)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            step += 1
            on_step(step, per_epoch * epochs)
    freeze(student)
    return student


def _distilled(temperature: float, logits: Tensor, wanted: Tensor | None, features: Tensor, told: Tensor) -> Tensor:
    """By the teacher's logits where they are wanted, else by attention."""
    if wanted is not None:
        everything = torch.arange(logits.shape[1], device=logits.device)
        return losses.distil(logits, wanted, everything, temperature)
    return ATTENTION_WEIGHT / 2 * losses.attention_transfer(features, told, 0.0) / features[0, 0].numel()
