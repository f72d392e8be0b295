"""What an attacker has, and what one attempt of theirs gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lirf_core.compute import Compute
from lirf_core.evidence.attacks.statistic import Accuracies, accuracies, bias_at
from lirf_core.evidence.images import Labelled
from lirf_core.features import Answers, answers_of
from lirf_core.images.preprocessing import Augmentation, Preprocessing
from lirf_core.metrics import logits_of
from lirf_core.network import SplitNetwork


@dataclass(frozen=True, eq=False)
class Attacker:
    """`learning` and `tuning` are the attacker's own labelled images of every class; `questions` are asked at the end.

    Learning images are drawn from the start of each class. compute: for fine-tuning; exact: for answers. `on_step` is
    called for each piece of work and can raise an exception to stop.
    """

    learning: Labelled
    tuning: Labelled
    questions: Labelled
    deposited: Sequence[int]
    preserved: Sequence[int]
    preprocessing: Preprocessing
    augmentation: Augmentation
    compute: Compute
    exact: Compute
    on_step: Callable[[], None] = lambda: None

    @property
    def classes(self) -> int:
        return len(self.deposited) + len(self.preserved)

    def few(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` learning images of each class and their labels."""
        images = self.learning.first_of_each(count)
        return images.images(), images.labels

    def ask(self, network: SplitNetwork, images: Tensor) -> Answers:
        """The network's features and logits. images: uint8 (N, C, H, W)."""
        network = self.exact.place(network).eval()
        parts = network.lower, network.upper
        return answers_of(*parts, images, self.preprocessing, self.exact, on_batch=self.on_step)

    def logits(self, network: SplitNetwork, compute: Compute) -> "Read":
        """The network's logits of the tuning images and of the questions."""
        tuning, questions = (
            logits_of(network, of.images(), self.preprocessing, compute, self.on_step)
            for of in (self.tuning, self.questions)
        )
        return Read(tuning, questions)


@dataclass(frozen=True, eq=False)
class Read:
    """What an attack reads: logits (N, classes) of the tuning images and of the questions."""

    tuning: Tensor
    questions: Tensor


@dataclass(frozen=True)
class Attempt:
    """One attack with one choice of its settings. Figures are percentages.

    images: learning images of each class; steps: of fine-tuning. tuned: the statistic on the tuning images, by which
    an attacker chooses. `at_cost` is of the questions after the constant that the tuning images chose, `plain` without.
    """

    attack: str
    settings: str
    images: int
    steps: int
    tuned: float
    at_cost: Accuracies
    plain: Accuracies


def attempt(
    attack: str, settings: str, images: int, steps: int, read: Read, attacker: Attacker, floor: float
) -> Attempt:
    """Score what an attack reads. floor: the preserved accuracy that the attacker keeps, in percent."""
    bias = bias_at(read.tuning, attacker.tuning.labels, attacker.deposited, floor)
    tuned = accuracies(read.tuning, attacker.tuning.labels, attacker.deposited, bias)
    at_cost, plain = (
        accuracies(read.questions, attacker.questions.labels, attacker.deposited, constant) for constant in (bias, 0.0)
    )
    return Attempt(attack, settings, images, steps, tuned.deposited, at_cost, plain)
