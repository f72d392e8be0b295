"""What an examination finds. Evidence of earlier versions is read as this, too."""

from dataclasses import dataclass, field

from lirf_core.evidence.answers import AnswerSummary, Shares
from lirf_core.evidence.attacks.comparison import Attacks
from lirf_core.evidence.membership import Attack
from lirf_core.evidence.relearning import RelearningPoint

PARTS = ("answers", "membership", "attacks", "distillation", "embedding")
GOOD = {
    "answers": "The target answers no image of a deposited class correctly, and preserved ones as before. The recover "
    "network answers as the original did.",
    "membership": "An area of 0.5 for the target: an attacker can only guess whether an image was in the deposit set. "
    "An area far from 0.5, on either side, is a leak if a reference that never saw the classes is closer to 0.5.",
    "attacks": "The same attackers read no more than from the reference. The reference never saw the classes, so what "
    "they read there comes from their own images.",
    "distillation": "A student of the target knows no more of the deposited classes than one without a teacher.",
    "embedding": "Deposited classes are mixed together in the target, and separate again in the deposit module and the "
    "recover network.",
}


@dataclass(frozen=True)
class Relearning:
    """Of an earlier version: a fine-tuning on `images_each` images of each class. `asked`: deposited questions."""

    images_each: int
    asked: int | None = None
    curve: list[RelearningPoint] = field(default_factory=list)


@dataclass(frozen=True)
class Embedding:
    """`labels`: the class index of each image; `points`: for each network, each image's place in the plane."""

    labels: list[int]
    points: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Evidence:
    """Results by network: original, before, target, deposit module (`module`), recover, reference, fresh, no teacher
    (`none`).

    `classes`: how many the networks tell apart; None in evidence of an earlier version, whose `original` is the network
    that the deposit started from. `probe` and `relearning` are of earlier versions, which had no `attacks`.
    `good` says how to read each part. A part that could not be measured is empty, and `missing` says why.
    """

    good: dict[str, str]
    missing: dict[str, str]
    images: dict[str, int]
    answers: dict[str, AnswerSummary] = field(default_factory=dict)
    membership: dict[str, Attack] = field(default_factory=dict)
    attacks: Attacks | None = None
    distillation: dict[str, dict[str, Shares]] = field(default_factory=dict)
    embedding: Embedding | None = None
    classes: int | None = None
    probe: dict[str, Shares] = field(default_factory=dict)
    relearning: dict[str, list[Relearning]] = field(default_factory=dict)
