"""Table 3: what a student distilled from the target learns about the deposited classes, against one distilled from the
original. As in the paper the students also see the ground truth, so that their accuracy falls little by itself.
"""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks import data as sources
from benchmarks.data import Data
from benchmarks.experiments import Experiment, OnStep, carry_out, kept, original
from lirf_core import losses, metrics
from lirf_core.architectures import build
from lirf_core.compute import Compute
from lirf_core.network import SplitNetwork, freeze

Student = Literal["cnn", "resnet18"]
Distillation = Literal["logits", "attention"]
Teacher = Literal["original", "target"]
STUDENTS: tuple[Student, ...] = ("cnn", "resnet18")
DISTILLATIONS: tuple[Distillation, ...] = ("logits", "attention")
ATTENTION_WEIGHT = 1000.0  # beta of Zagoruyko and Komodakis, 2017


@dataclass(frozen=True)
class Lesson:
    """How a student is taught; `images` are shown of each class, None for all."""

    student: Student
    distillation: Distillation
    teacher: Teacher
    images: int | None
    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 0.05
    temperature: float = 4.0


def plain_cnn(channels: int, classes: int, features: int, width: int = 32) -> SplitNetwork:
    """Three convolutions to the split, whose features have the teacher's size there, and two behind it."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    lower = nn.Sequential(*block(channels, width, 1), *block(width, width, 1), *block(width, features, 2))
    upper = nn.Sequential(
        *block(features, 2 * features, 2),
        *block(2 * features, 2 * features, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * features, classes),
    )
    return SplitNetwork(lower, upper)


def outcome(
    experiment: Experiment, lesson: Lesson, device: str = "auto", on_step: OnStep = lambda *_: None
) -> dict[str, Any]:
    """The kept result of a lesson by the experiment's original or target; given when there is none."""

    def run() -> dict[str, Any]:
        data, compute = sources.load(experiment.data), Compute.for_training(device)
        return teach(lesson, _teacher(experiment, lesson.teacher, device), data, experiment.seed, compute, on_step)

    return kept(experiment, {"lesson": lesson}, device, run)


@cache
def _teacher(experiment: Experiment, teacher: Teacher, device: str) -> SplitNetwork:
    data, compute = sources.load(experiment.data), Compute.for_training(device)
    network = original(data, experiment, compute)
    return network if teacher == "original" else carry_out(experiment, data, network, compute).target


def teach(
    lesson: Lesson,
    teacher: SplitNetwork,
    data: Data,
    seed: int,
    compute: Compute,
    on_step: OnStep,
) -> dict[str, Any]:
    """Trains a student on training images by ground truth and the teacher; returns its held-out accuracy.

    The teacher is split after layer2, where a student has features of the same height and width.
    """
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    student = compute.place(_student(lesson, teacher, data)).train()
    teacher = compute.place(teacher)
    images = data.training.first_of_each(lesson.images)
    pixels, labels = images.pixels.to(compute.device), images.labels.to(compute.device)
    per_epoch = -(-len(images) // lesson.batch_size)
    optimiser = torch.optim.SGD(student.parameters(), lr=lesson.learning_rate, momentum=0.9, weight_decay=5e-4)
    schedule = OneCycleLR(optimiser, lesson.learning_rate, total_steps=per_epoch * lesson.epochs)
    step = 0
    for _ in range(lesson.epochs):
        for chosen in torch.randperm(len(images), generator=generator).tensor_split(per_epoch):
            chosen = chosen.to(compute.device)
            inputs = compute.inputs(data.augmentation(pixels[chosen], generator), data.preprocessing)
            with compute.autocast():
                with torch.no_grad():
                    taught = teacher.lower(inputs)
                    wanted = teacher.upper(taught).float()
                features = student.lower(inputs)
                logits = student.upper(features).float()
            loss = F.cross_entropy(logits, labels[chosen]) + _distilled(lesson, logits, wanted, features, taught)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            step += 1
            on_step(step, per_epoch * lesson.epochs)
    freeze(student)
    answers = metrics.logits_of(student, data.held_out.pixels, data.preprocessing, compute)
    return asdict(metrics.accuracy(answers, data.held_out.labels, data.deposited))


def _student(lesson: Lesson, teacher: SplitNetwork, data: Data) -> SplitNetwork:
    if lesson.student == "resnet18":
        return build(data.narrow, "layer2")
    example = torch.zeros(1, data.preprocessing.channels, data.preprocessing.height, data.preprocessing.width)
    features = teacher.lower(example.to(next(teacher.parameters()).device)).shape[1]
    return plain_cnn(data.preprocessing.channels, len(data.classes), features)


def _distilled(lesson: Lesson, logits: Tensor, wanted: Tensor, features: Tensor, taught: Tensor) -> Tensor:
    if lesson.distillation == "logits":
        everything = torch.arange(logits.shape[1], device=logits.device)
        return losses.distil(logits, wanted, everything, lesson.temperature)
    return ATTENTION_WEIGHT / 2 * losses.attention_transfer(features, taught, 0.0) / features[0, 0].numel()
