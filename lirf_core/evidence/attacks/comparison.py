"""What attackers read from a target, and from a network that never saw the deposited classes, by the same attacks.

The target and the networks that it is compared with are attacked as they are served: without the rows of deposited
classes. Every attacker makes new rows, the same ones in each network. The original keeps its rows: it shows what there
is to find.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import torch

from lirf_core.class_rows import with_rows, without_rows
from lirf_core.compute import Compute
from lirf_core.evidence.attacks import anamnesis
from lirf_core.evidence.attacks.attacker import Attacker, Attempt
from lirf_core.evidence.attacks.config import AttackConfig, Plan, Strength
from lirf_core.evidence.attacks.draws import Draw, attacked_classes, draws
from lirf_core.evidence.attacks.statistic import Accuracies, Advantage, advantage
from lirf_core.evidence.attacks.suite import attacked, best
from lirf_core.evidence.images import Labelled
from lirf_core.images.preprocessing import Augmentation, Preprocessing
from lirf_core.network import SplitNetwork

Kind = Literal["best", "probe", "probe at the split"]
PROBES: dict[Kind, str] = {"probe": "logistic probe", "probe at the split": "logistic probe at the split"}
PENALTY = "penalty 10"  # every plan has it, so nothing is tuned
GOAL = 0.9  # of what the original answers: the goal of the anamnesis index (alpha is 10 %)
WITHOUT_REFERENCE = 2  # attackers, if there is nothing to compare the target with
PIXELS = 32 * 64 * 64  # in a batch; larger images come in smaller batches, as an examination must end
LEAST_BATCH = 8


@dataclass(frozen=True)
class Budget:
    """What an attacker may use: labelled images of each class, and steps of fine-tuning.

    kind: the best of all attacks within it, or a linear probe alone, of the last layer's features or at the split.
    """

    kind: Kind
    images: int
    steps: int


@dataclass(frozen=True)
class Reading:
    """What the best attack within a budget reads, one value for each draw of images.

    deposited: percent of the deposited questions that are answered correctly, at `cost` points of preserved accuracy
    (a probe: without a cost); preserved: percent of the preserved questions. attacks: their names.
    """

    deposited: list[float]
    preserved: list[float]
    attacks: list[str]


@dataclass(frozen=True)
class AttackedNetwork:
    """One network's readings, in the order of the budgets, and its accuracies before any attack (mean over draws).

    relearning_steps: of the anamnesis index; None if its goal was not reached or it was not measured.
    """

    before: Accuracies
    readings: list[Reading]
    relearning_steps: int | None = None


@dataclass(frozen=True)
class Anamnesis:
    """Both networks learn again until they answer `goal` percent of the deposited questions, in `most_steps` at most.

    Steps are None if that was not enough. index: AIN, target to reference; None if either did not reach the goal.
    """

    goal: float
    most_steps: int
    target: int | None
    reference: int | None
    index: float | None


@dataclass(frozen=True)
class Attacks:
    """What attackers read from each network.

    asked: different deposited images that are asked about; learning: images of each class that attackers learnt from.
    is_hardened: whether `target` is the hardened network, which is served in place of the target. cost: points of
    preserved accuracy that an attacker gives away. networks: `original` is not fine-tuned and, like
    `fresh`, faces the first draw only. advantages: of the target over the reference, in the order of the budgets; empty
    without a reference.
    """

    strength: Strength
    is_hardened: bool
    cost: float
    draws: int
    asked: int
    learning: int
    budgets: list[Budget]
    networks: dict[str, AttackedNetwork]
    advantages: list[Advantage]
    anamnesis: Anamnesis | None


@dataclass(frozen=True, eq=False)
class Field:
    """The images and classes of an attack, and how networks run. compute: for fine-tuning; exact: for answers."""

    held_out: Labelled
    deposited: Sequence[int]
    preserved: Sequence[int]
    preprocessing: Preprocessing
    augmentation: Augmentation
    compute: Compute
    exact: Compute


class Comparison:
    """Attacks one network after the other. `on_step` gets what is being attacked, and can raise an exception to stop.

    has_reference: whether a reference will be attacked, too. Raises `CannotBeMeasured` if there are too few images.
    """

    def __init__(
        self,
        field: Field,
        plan: Plan,
        strength: Strength,
        has_reference: bool,
        on_step: Callable[[str], None] = lambda _: None,
        seed: int = 0,
    ) -> None:
        self._field, self._plan, self._strength, self._on_step, self._seed = field, plan, strength, on_step, seed
        self._has_reference = has_reference
        self._deposited = attacked_classes(field.held_out, field.deposited)
        self._preserved = attacked_classes(field.held_out, field.preserved)
        self._classes = sorted([*self._deposited, *self._preserved])
        place = torch.full((max(self._classes, default=0) + 1,), -1).index_copy_(
            0, torch.tensor(self._classes, dtype=torch.long), torch.arange(len(self._classes))
        )
        images = field.held_out.of_classes(self._classes)
        placed = Labelled(images.source, place[images.labels], images.numbers)
        self._own = [int(place[label]) for label in self._deposited]
        self._others = [int(place[label]) for label in self._preserved]
        count = plan.draws if has_reference else WITHOUT_REFERENCE
        most = max(*plan.attack.images, *plan.attack.probe_images)
        self._draws = draws(placed, self._own, count, most, seed)
        pixels = field.preprocessing.height * field.preprocessing.width
        self._most_batch = max(LEAST_BATCH, PIXELS // pixels)
        self._learning = int(self._draws[0].learning.labels.bincount().max())
        self._config = _within(plan.attack, self._learning, self._most_batch)
        self._goal: float | None = None

    def attack_original(self, network: SplitNetwork) -> AttackedNetwork:
        """With its rows and without fine-tuning. What it answers sets the goal of the anamnesis index."""
        result = self._attack("original", without_rows(network, self._classes), self._draws[:1], is_trained=False)
        self._goal = GOAL * result.before.deposited
        return result

    def attack_fresh(self, network: SplitNetwork) -> AttackedNetwork:
        """What the attackers' images teach a network that knows nothing."""
        return self._attack("fresh", self._as_served(network), self._draws[:1])

    def attack(self, name: str, network: SplitNetwork) -> AttackedNetwork:
        """The target or the reference, by every attacker."""
        served = self._as_served(network)
        result = self._attack(name, served, self._draws)
        if self._goal is None or not self._has_reference:
            return result
        self._on_step(f"{name}, relearning time")
        attacker, batch = self._attacker(name, 0), min(anamnesis.BATCH, self._most_batch)
        steps = anamnesis.relearning_time(served, attacker, self._goal, self._learning, self._seed, batch)
        return replace(result, relearning_steps=steps)

    def result(self, networks: Mapping[str, AttackedNetwork], is_hardened: bool = False) -> Attacks:
        """networks: what was attacked, by name; the target, or the hardened network that is served, at least."""
        target, reference = networks["target"], networks.get("reference")
        asked = sum(len(draw.questions.of_classes(self._own)) for draw in self._draws)
        pairs = zip(target.readings, reference.readings, strict=True) if reference else ()
        return Attacks(
            self._strength,
            is_hardened,
            self._config.cost,
            len(self._draws),
            asked,
            self._learning,
            self._budgets(),
            dict(networks),
            [advantage(ours.deposited, theirs.deposited, asked) for ours, theirs in pairs],
            self._anamnesis(target, reference) if reference and self._goal is not None else None,
        )

    def _anamnesis(self, target: AttackedNetwork, reference: AttackedNetwork) -> Anamnesis:
        assert self._goal is not None
        most = anamnesis.most_steps(len(self._draws[0].learning), min(anamnesis.BATCH, self._most_batch))
        times = target.relearning_steps, reference.relearning_steps
        return Anamnesis(round(self._goal, 4), most, *times, anamnesis.anamnesis_index(*times))

    def _attack(
        self, name: str, network: SplitNetwork, among: Sequence[Draw], is_trained: bool = True
    ) -> AttackedNetwork:
        config = self._config if is_trained else replace(self._config, images=())
        before, attempts = [], []
        for number in range(len(among)):
            attacker = self._attacker(name, number)
            found = attacked(
                network,
                range(len(self._classes)),
                attacker,
                replace(config, seed=self._seed + number),
                tries_preserved_alone=self._plan.tries_preserved_alone,
            )
            before.append(found.before)
            attempts.append(found.attempts)
        return AttackedNetwork(_mean(before), [_reading(budget, attempts) for budget in self._budgets()])

    def _attacker(self, name: str, number: int) -> Attacker:
        field, draw = self._field, self._draws[number]
        piece = f"{name}, attacker {number + 1}"
        return Attacker(
            draw.learning,
            draw.tuning,
            draw.questions,
            self._own,
            self._others,
            field.preprocessing,
            field.augmentation,
            field.compute,
            field.exact,
            lambda: self._on_step(piece),
        )

    def _as_served(self, network: SplitNetwork) -> SplitNetwork:
        """With rows for the attacked classes alone; those of deposited classes say nothing."""
        return with_rows(without_rows(network, self._preserved), self._others, len(self._classes))

    def _budgets(self) -> list[Budget]:
        config = self._config
        trained = [(count, steps) for count in config.images for steps in (0, *config.steps)]
        return [
            Budget("best", 0, 0),
            *(Budget("best", count, steps) for count, steps in trained),
            *(Budget(kind, count, 0) for kind in PROBES for count in config.probe_images),
        ]


def _within(config: AttackConfig, learning: int, most_batch: int) -> AttackConfig:
    """The attack with as many images as there are. Fewer than the smallest number still make one attack."""
    images, probe_images = (
        tuple(sorted({min(count, learning) for count in counts})) for counts in (config.images, config.probe_images)
    )
    return replace(config, images=images, probe_images=probe_images, batch_size=min(config.batch_size, most_batch))


def _reading(budget: Budget, attempts: Sequence[Sequence[Attempt]]) -> Reading:
    """attempts: of each draw."""
    if probe := PROBES.get(budget.kind):
        chosen = [
            next(one for one in of_draw if (one.attack, one.settings, one.images) == (probe, PENALTY, budget.images))
            for of_draw in attempts
        ]
        values = [one.plain for one in chosen]
    else:
        chosen = [best(of_draw, budget.images, budget.steps) for of_draw in attempts]
        values = [one.at_cost for one in chosen]
    return Reading([one.deposited for one in values], [one.preserved for one in values], [_name(one) for one in chosen])


def _name(one: Attempt) -> str:
    described = f"{one.attack}, {one.settings}" if one.settings else one.attack
    return f"{described}, {one.steps} steps" if one.steps else described


def _mean(accuracies: Sequence[Accuracies]) -> Accuracies:
    return Accuracies(
        round(fmean(one.deposited for one in accuracies), 4), round(fmean(one.preserved for one in accuracies), 4)
    )
