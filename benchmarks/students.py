"""Table 3: what a student learns about the deposited classes from the target, compared with one that learns from the
original. As in the paper, students also see the ground truth, so their accuracy falls little in either case.
"""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import torch

from benchmarks import data as sources
from benchmarks.data import Data
from benchmarks.experiments import Experiment, OnStep, carry_out, original, stored
from lirf_core import metrics
from lirf_core.architectures import build
from lirf_core.compute import Compute
from lirf_core.evidence.distillation import (
    LEARNING_RATE,
    TEMPERATURE,
    Distillation,
    features_at_split,
    plain_cnn,
    train_student,
)
from lirf_core.network import SplitNetwork

Student = Literal["cnn", "resnet18"]
Teacher = Literal["original", "target"]
STUDENTS: tuple[Student, ...] = ("cnn", "resnet18")
DISTILLATIONS: tuple[Distillation, ...] = ("logits", "attention")


@dataclass(frozen=True)
class StudentTraining:
    """How a student is trained. images: of each class; None for all."""

    student: Student
    distillation: Distillation
    teacher: Teacher
    images: int | None
    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = LEARNING_RATE
    temperature: float = TEMPERATURE


def outcome(
    experiment: Experiment, training: StudentTraining, device: str = "auto", on_step: OnStep = lambda *_: None
) -> dict[str, Any]:
    """The stored result of a student of the experiment's original or target; if there is none, train it."""

    def run() -> dict[str, Any]:
        data, compute = sources.load(experiment.data), Compute.for_training(device)
        return teach(training, _teacher(experiment, training.teacher, device), data, experiment.seed, compute, on_step)

    return stored(experiment, {"lesson": training}, device, run)


@cache
def _teacher(experiment: Experiment, teacher: Teacher, device: str) -> SplitNetwork:
    data, compute = sources.load(experiment.data), Compute.for_training(device)
    network = original(data, experiment, compute)
    return network if teacher == "original" else carry_out(experiment, data, network, compute).target


def teach(
    training: StudentTraining,
    teacher: SplitNetwork,
    data: Data,
    seed: int,
    compute: Compute,
    on_step: OnStep,
) -> dict[str, Any]:
    """Train a student on training images with ground truth and teacher. Returns its held-out accuracy.

    The teacher is split after layer2, where the student's features have the same height and width.
    """
    torch.manual_seed(seed)
    images = data.training.first_of_each(training.images)
    student = train_student(
        _student(training, teacher, data),
        teacher,
        images.pixels,
        images.labels,
        data.preprocessing,
        data.augmentation,
        compute,
        training.distillation,
        training.epochs,
        training.batch_size,
        training.learning_rate,
        training.temperature,
        seed,
        on_step,
    )
    answers = metrics.logits_of(student, data.held_out.pixels, data.preprocessing, compute)
    return asdict(metrics.accuracy(answers, data.held_out.labels, data.deposited))


def _student(training: StudentTraining, teacher: SplitNetwork, data: Data) -> SplitNetwork:
    if training.student == "resnet18":
        return build(data.narrow, "layer2")
    return plain_cnn(data.preprocessing.channels, len(data.classes), features_at_split(teacher, data.preprocessing))
