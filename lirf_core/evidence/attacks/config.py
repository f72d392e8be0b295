"""The configuration of the attacks. Importing it needs no torch."""

from dataclasses import dataclass
from typing import Literal

Head = Literal["as it is", "reset", "prototypes"]


@dataclass(frozen=True)
class AttackConfig:
    """How strong an attacker is. Numbers of images are of each class.

    cost: points of preserved accuracy that the attacker gives away. images: for prototypes, batch norm and fine-tuning.
    penalties: of the probes. scales: of the cosines to prototypes. heads: what fine-tuning starts from.
    steps: ascending, of fine-tuning; the attacker may stop at any of them.
    """

    cost: float = 5.0
    images: tuple[int, ...] = (10, 100)
    probe_images: tuple[int, ...] = (10, 100, 600)
    penalties: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0)
    scales: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0)
    heads: tuple[Head, ...] = ("as it is", "reset", "prototypes")
    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    steps: tuple[int, ...] = (5, 10, 20, 40, 80, 160)
    batch_size: int = 64
    seed: int = 0
