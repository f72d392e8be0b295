"""The configuration of the attacks. Importing it needs no torch."""

from dataclasses import dataclass
from typing import Literal

Head = Literal["as it is", "reset", "prototypes"]
Readout = Literal["learnt rows", "ridge probe", "logistic probe"]


@dataclass(frozen=True)
class AttackConfig:
    """How strong an attacker is. Numbers of images are of each class.

    cost: points of preserved accuracy that the attacker gives away. images: for prototypes, batch norm and fine-tuning.
    readouts: of features, from `probe_images`; probes read all classes, rows are learnt for the deposited ones alone.
    penalties: of the readouts. scales: of the cosines to prototypes. heads: what fine-tuning starts from.
    steps: ascending, of fine-tuning; the attacker may stop at any of them.
    """

    cost: float = 5.0
    images: tuple[int, ...] = (10, 100)
    probe_images: tuple[int, ...] = (10, 100, 600)
    readouts: tuple[Readout, ...] = ("learnt rows", "ridge probe", "logistic probe")
    penalties: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0)
    scales: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0)
    heads: tuple[Head, ...] = ("as it is", "reset", "prototypes")
    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    steps: tuple[int, ...] = (5, 10, 20, 40, 80, 160)
    batch_size: int = 64
    seed: int = 0


Strength = Literal["small", "full"]


@dataclass(frozen=True)
class Plan:
    """An attacker as a worker sends it. draws: how many attackers, each with other images, face target and reference.

    tries_preserved_alone: whether fine-tuning on preserved images alone is tried, too.
    """

    attack: AttackConfig
    draws: int = 5
    tries_preserved_alone: bool = False


PLANS: dict[Strength, Plan] = {
    "small": Plan(
        AttackConfig(
            images=(10,),
            probe_images=(10,),
            penalties=(10.0,),
            heads=("prototypes",),
            learning_rates=(0.03,),
            steps=(20, 80),
            batch_size=32,
        ),
        draws=4,
    ),
    "full": Plan(
        AttackConfig(
            probe_images=(10, 100),
            penalties=(1.0, 10.0, 100.0),
            learning_rates=(0.01, 0.03),
            steps=(5, 10, 20, 40, 80, 160),
        ),
        tries_preserved_alone=True,
    ),
}
