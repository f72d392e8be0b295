"""All evidence of one deposit: what is left of the deposited classes, on raw logits and beyond them.

Held-out images are halved class by class. One half is the attacker's, who has labels: a probe, a fine-tuning and
students learn from it. The other half is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from lirf_core.compute import Compute
from lirf_core.data import Augmentation, Preprocessing
from lirf_core.evidence.answers import Answered, Share, answered, shares
from lirf_core.evidence.distillation import Distillation, features_at_split, plain_cnn, taught
from lirf_core.evidence.embedding import LEAST, embedding
from lirf_core.evidence.membership import Attack, attack
from lirf_core.evidence.probe import linear_probe
from lirf_core.evidence.relearning import STEPS, Relearnt, relearning_curve
from lirf_core.features import answers_of
from lirf_core.losses import margins
from lirf_core.metrics import logits_of
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule, RecoverNetwork

PARTS = ("answers", "membership", "probe", "relearning", "distillation", "embedding")
GOOD = {
    "answers": "The target answers no image of a deposited class rightly, and preserved ones as before; the recover "
    "network answers as the original did.",
    "membership": "An area of 0.5 for the target: whether an image was deposited is a guess. Far from it, on either "
    "side, is a leak where a reference, said never to have seen the classes, is nearer.",
    "probe": "As low as the reference's, which never saw the classes: what is read there was never of them.",
    "relearning": "As little as a fresh network after as many steps. Far more: it was hidden, not removed.",
    "distillation": "A student of the target knows no more of the deposited classes than one without a teacher.",
    "embedding": "Deposited classes lie mixed in the target, and apart again in the deposit module and the recover "
    "network.",
}
MEMBERS = 2000  # images of each side of a membership attack
ATTACK_IMAGES = 5000  # that an attacker has, and as many are asked
ATTACK_EACH = 200
OTHERS = 50  # preserved classes that an attacker has images of
FEW = (10, 100)  # images of each class that a relearning sees
SHOWN, SHOWN_EACH = 600, 40  # in a picture
KNOWN_AGAIN = 0.9  # of the accuracy that was there before
STUDENT_STEPS, STUDENT_EPOCHS, STUDENT_BATCH = 120, 5, 128


class Labelled(NamedTuple):
    """uint8 (N, C, H, W) and labels (N,)."""

    images: Tensor
    labels: Tensor

    def classes(self) -> list[int]:
        """Those that it has images of."""
        return sorted(set(self.labels.tolist()))

    def of_classes(self, classes: Sequence[int]) -> "Labelled":
        chosen = torch.isin(self.labels, torch.tensor(sorted(classes), dtype=self.labels.dtype))
        if chosen.all():  # a mapped file stays one
            return self
        return Labelled(self.images[chosen], self.labels[chosen])

    def first_of_each(self, count: int) -> "Labelled":
        """At most so many of each class, in their order."""
        chosen = [(self.labels == label).nonzero()[:count, 0] for label in self.classes()]
        return _chosen(self, torch.cat([*chosen, torch.zeros(0, dtype=torch.long)]).sort().values)


@dataclass(frozen=True)
class Networks:
    """What is examined. `fresh` has the target's architecture and knows nothing; `reference` never saw the classes."""

    target: SplitNetwork
    fresh: SplitNetwork
    original: SplitNetwork | None = None
    module: DepositModule | None = None
    reference: SplitNetwork | None = None

    def whole(self) -> dict[str, SplitNetwork]:
        """Those that are a network by themselves and were trained."""
        named = {"original": self.original, "target": self.target, "reference": self.reference}
        return {name: network for name, network in named.items() if network is not None}


@dataclass(frozen=True)
class Read:
    """What a linear probe, or a student, answers rightly."""

    preserved: Share | None
    deposited: Share | None


@dataclass(frozen=True)
class Relearning:
    """Fine-tuned on so many images of each class; `needed`: steps until `goal` percent of the deposited are right."""

    images_each: int
    goal: float
    needed: int | None
    curve: list[Relearnt]


@dataclass(frozen=True)
class Embedding:
    """`labels` are class indices; `points` a place in the plane for each of them, by network."""

    labels: list[int]
    points: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Evidence:
    """By network: original, target, deposit module (`module`), recover, reference, fresh, or no teacher (`none`).

    What could not be measured is empty, and `missing` says why.
    """

    good: dict[str, str]
    missing: dict[str, str]
    images: dict[str, int]
    answers: dict[str, Answered] = field(default_factory=dict)
    membership: dict[str, Attack] = field(default_factory=dict)
    probe: dict[str, Read] = field(default_factory=dict)
    relearning: dict[str, list[Relearning]] = field(default_factory=dict)
    distillation: dict[str, dict[str, Read]] = field(default_factory=dict)
    embedding: Embedding | None = None


@dataclass(frozen=True)
class Case:
    """A deposit as it is examined. `members` are its deposit set, where that is still there."""

    classes: Sequence[str]
    deposited: Sequence[int]
    preserved: Sequence[int]
    held_out: Labelled
    members: Labelled | None
    preprocessing: Preprocessing
    augmentation: Augmentation


class Examination:
    """Carries out the parts, one after the other, each by its name in `PARTS`.

    compute trains, exact answers. `on_step` is told the part and is called for each piece of it; it stops the work by
    raising. Nothing of the networks is changed.
    """

    def __init__(
        self,
        networks: Networks,
        case: Case,
        compute: Compute,
        exact: Compute,
        on_step: Callable[[str], None] = lambda _: None,
        seed: int = 0,
    ) -> None:
        self._networks, self._case, self._compute, self._exact = networks, case, compute, exact
        self._on_step, self._part, self._seed = on_step, PARTS[0], seed
        attacked = [*case.deposited, *_spread(case.preserved, OTHERS)]
        self._attackers, self._asked = halves(case.held_out.of_classes(attacked), seed)
        self._recover = None
        if networks.module:
            belongs = networks.module.upper_digest
            self._recover = RecoverNetwork(networks.target, [networks.module], belongs, case.preserved)

    def run(self) -> Evidence:
        """Every part."""
        found: dict[str, Any] = {}
        missing: dict[str, str] = {}
        for part in PARTS:
            self._part = part
            self._step()
            reason = self._why_not(part)
            if reason:
                missing[part] = reason
            else:
                found[part] = getattr(self, f"_{part}")()
        if self._networks.original is None:
            missing["original"] = "The network before the deposit was destroyed, as the model's policy demands."
        if self._networks.module is None:
            missing["recover"] = "The deposit module was purged: nothing recovers the classes."
        if self._networks.reference is None:
            missing["reference"] = "No network that never saw the classes was named to compare with."
        images = {"held_out": len(self._case.held_out.labels), "attackers": len(self._attackers.labels)}
        images |= {"asked": len(self._asked.labels)}
        images |= {"members": len(self._case.members.labels) if self._case.members else 0}
        return Evidence(GOOD, missing, images, **found)

    def _why_not(self, part: str) -> str | None:
        members = self._case.members
        if part == "membership" and members is None:
            return "The deposit set is shredded."
        held_out = self._case.held_out.of_classes(self._case.deposited)
        if not len(held_out.labels):
            return "The evaluation set has no image of the deposited classes."
        deposited = self._attackers.of_classes(self._case.deposited)
        if part in ("probe", "relearning", "distillation") and not len(deposited.labels):
            return "The evaluation set has too few images to halve."
        if part == "probe" and len(self._attackers.classes()) == 1:
            return "The evaluation set has images of one class alone."
        if part == "embedding" and len(self._shown().labels) < LEAST:
            return "The evaluation set has too few images for a picture."
        return None

    def _answers(self) -> dict[str, Answered]:
        held_out = self._case.held_out
        told = held_out.labels, self._case.deposited, self._case.classes
        return {name: answered(self._logits(network, held_out.images), *told) for name, network in self._all().items()}

    def _membership(self) -> dict[str, Attack]:
        assert self._case.members is not None
        members, strangers = sides(self._case.members, self._case.held_out.of_classes(self._case.deposited))
        return {
            name: attack(*(margins(self._logits(network, of.images), of.labels) for of in (members, strangers)))
            for name, network in self._all().items()
        }

    def _probe(self) -> dict[str, Read]:
        read = {}
        for name, network in self._networks.whole().items():
            of_attackers, of_asked = (self._features(network.lower, of.images) for of in (self._attackers, self._asked))
            labelled = of_attackers, self._attackers.labels
            read[name] = self._read(linear_probe(labelled, of_asked, len(self._case.classes)))
        return read

    def _relearning(self) -> dict[str, list[Relearning]]:
        known = self._networks.original or self._recover
        goal = KNOWN_AGAIN * (self._percent(known) if known else 100.0)
        learners = {"target": self._networks.target, "fresh": self._networks.fresh}
        if self._networks.reference:
            learners["reference"] = self._networks.reference
        each = self._most_each()
        budgets = sorted({min(few, each) for few in FEW})
        return {
            name: [self._relearnt(network, budget, goal) for budget in budgets] for name, network in learners.items()
        }

    def _relearnt(self, network: SplitNetwork, budget: int, goal: float) -> Relearning:
        curve = relearning_curve(
            network,
            self._attackers.first_of_each(budget),
            self._asked,
            self._case.deposited,
            self._case.preprocessing,
            self._case.augmentation,
            self._compute,
            STEPS,
            self._seed,
            self._step,
        )
        needed = next((point.step for point in curve if (point.deposited or 0.0) >= goal), None)
        return Relearning(budget, round(goal, 2), needed, curve)

    def _distillation(self) -> dict[str, dict[str, Read]]:
        teachers = {"none": None, "original": self._networks.original, "target": self._networks.target}
        depth, height, width = features_at_split(self._exact.place(self._networks.target), self._case.preprocessing)
        is_map = height > 1 and width > 1  # a transformer's tokens lie nowhere in the image
        ways: list[Distillation] = ["logits", "attention"] if is_map else ["logits"]
        alone = self._student((depth, height, width), None, "logits")
        found: dict[str, dict[str, Read]] = {}
        for way in ways:
            found[way] = {"none": alone}
            for name, teacher in teachers.items():
                if teacher is not None:
                    found[way][name] = self._student((depth, height, width), teacher, way)
        return found

    def _student(self, features: tuple[int, int, int], teacher: SplitNetwork | None, way: Distillation) -> Read:
        per_epoch = -(-len(self._attackers.labels) // STUDENT_BATCH)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            student = plain_cnn(self._case.preprocessing.channels, len(self._case.classes), features)
        learnt = taught(
            student,
            teacher,
            *self._attackers,
            self._case.preprocessing,
            self._case.augmentation,
            self._compute,
            way,
            max(STUDENT_EPOCHS, -(-STUDENT_STEPS // per_epoch)),
            STUDENT_BATCH,
            seed=self._seed,
            on_step=lambda *_: self._step(),
        )
        return self._read(self._logits(learnt, self._asked.images))

    def _embedding(self) -> Embedding:
        shown, networks = self._shown(), self._networks
        lowers: dict[str, nn.Module] = {"target": networks.target.lower}
        if networks.original:
            lowers = {"original": networks.original.lower, **lowers}
        if networks.module:
            lowers["module"] = networks.module
        found = {name: self._features(lower, shown.images) for name, lower in lowers.items()}
        if self._recover:  # its features are those of the part that gave its answer
            answers = self._logits(self._recover, shown.images).argmax(1)
            is_deposited = torch.isin(answers, torch.tensor(sorted(self._case.deposited)))
            found["recover"] = found["module"].where(is_deposited[:, None], found["target"])
        points = {}
        for name, features in found.items():
            self._step()
            points[name] = embedding(features, self._seed)
        return Embedding(shown.labels.tolist(), points)

    def _shown(self) -> Labelled:
        count = max(1, min(SHOWN_EACH, SHOWN // max(1, len(self._case.held_out.classes()))))
        return self._case.held_out.first_of_each(count)

    def _most_each(self) -> int:
        return int(self._attackers.labels.bincount().max())

    def _all(self) -> dict[str, nn.Module]:
        whole: dict[str, nn.Module] = dict(self._networks.whole())
        return {**whole, "recover": self._recover} if self._recover else whole

    def _percent(self, network: nn.Module) -> float:
        deposited = self._read(self._logits(network, self._asked.images)).deposited
        return deposited.percent if deposited else 100.0

    def _read(self, logits: Tensor) -> Read:
        return Read(*shares(logits.argmax(1) == self._asked.labels, self._asked.labels, self._case.deposited))

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        return logits_of(self._exact.place(network), images, self._case.preprocessing, self._exact, self._step)

    def _features(self, lower: nn.Module, images: Tensor) -> Tensor:
        """Of the last layer, whose upper part is one for all but the reference's."""
        reference = self._networks.reference
        upper = reference.upper if reference and lower is reference.lower else self._networks.target.upper
        place, preprocessing = self._exact.place, self._case.preprocessing
        return answers_of(place(lower), place(upper), images, preprocessing, self._exact, on_batch=self._step).features

    def _step(self) -> None:
        self._on_step(self._part)


def halves(held_out: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """The attacker's half of each class and the one that is asked, drawn by the seed; no more than an attack needs."""
    generator = Generator().manual_seed(seed)
    labels = held_out.classes()
    most = min(ATTACK_EACH, max(1, ATTACK_IMAGES // max(1, len(labels))))
    of_attackers, of_asked = [], []
    for label in labels:
        numbers = (held_out.labels == label).nonzero()[:, 0]
        drawn = numbers[torch.randperm(len(numbers), generator=generator)]
        half = len(drawn) // 2
        of_attackers.append(drawn[:half][:most])
        of_asked.append(drawn[half:][:most])
    attackers, asked = (torch.cat([*of, torch.zeros(0, dtype=torch.long)]) for of in (of_attackers, of_asked))
    return _chosen(held_out, attackers), _chosen(held_out, asked)


def sides(members: Labelled, strangers: Labelled, seed: int = 0) -> tuple[Labelled, Labelled]:
    """As many of each class on both sides, drawn by the seed: else the attack would tell classes apart, not members."""
    generator = Generator().manual_seed(seed)
    both = sorted(set(members.classes()) & set(strangers.classes()))
    each = max(1, MEMBERS // max(1, len(both)))
    numbers: tuple[list[Tensor], list[Tensor]] = [], []
    for label in both:
        of = [(side.labels == label).nonzero()[:, 0] for side in (members, strangers)]
        count = min(each, *(len(found) for found in of))
        for kept, found in zip(numbers, of, strict=True):
            kept.append(found[torch.randperm(len(found), generator=generator)[:count]])
    none = torch.zeros(0, dtype=torch.long)
    return _chosen(members, torch.cat([*numbers[0], none])), _chosen(strangers, torch.cat([*numbers[1], none]))


def _spread(classes: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of them, from first to last."""
    return classes if len(classes) <= most else [classes[i * len(classes) // most] for i in range(most)]


def _chosen(labelled: Labelled, numbers: Tensor) -> Labelled:
    return Labelled(labelled.images[numbers], labelled.labels[numbers])
