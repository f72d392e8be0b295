"""Distillation leak: does a student learn the deposited classes from the target (the paper's Table 3)?

As in the paper, a student also sees the ground truth and learns much of it without a teacher. So the yardstick is a
student that has no teacher.
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
    """Three convolutions before the split, where features have the teacher's size (C, H, W), and two after it."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    depth, height, feature_width = features
    lower = nn.Sequential(
        *block(channels, width, 1),
        *block(width, width, 1),
        *block(width, depth, 2),
        nn.AdaptiveAvgPool2d((height, feature_width)),  # does nothing if the features already have that size
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
    """(C, H, W) of one image's features at the split."""
    example = torch.zeros(1, preprocessing.channels, preprocessing.height, preprocessing.width)
    with torch.inference_mode():
        depth, height, width = network.lower(example.to(next(network.parameters()).device)).shape[1:]
    return depth, height, width


def train_student(
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
    """Train a student on the ground truth and, if there is one, on a teacher. Returns it frozen.

    images: uint8 (N, C, H, W); labels: (N,). For `attention`, the features of student and teacher must have the same
    height and width at their splits. `on_step` gets the step and the number of steps, and can raise an exception to
    stop.
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
                    teacher_features = teacher.lower(inputs)
                    teacher_logits = teacher.upper(teacher_features).float() if distillation == "logits" else None
                loss = loss + _distillation_loss(temperature, logits, teacher_logits, features, teacher_features)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            step += 1
            on_step(step, per_epoch * epochs)
    freeze(student)
    return student


def _distillation_loss(
    temperature: float, logits: Tensor, teacher_logits: Tensor | None, features: Tensor, teacher_features: Tensor
) -> Tensor:
    """By the teacher's logits if there are any, else by attention."""
    if teacher_logits is not None:
        everything = torch.arange(logits.shape[1], device=logits.device)
        return losses.distil(logits, teacher_logits, everything, temperature)
    return ATTENTION_WEIGHT / 2 * losses.attention_transfer(features, teacher_features, 0.0) / features[0, 0].numel()
