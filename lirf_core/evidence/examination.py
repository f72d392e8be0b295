"""All evidence of one deposit: what is left of the deposited classes, in raw logits and beyond them.

The held-out images of each class are halved. One half, with labels, belongs to the attacker: a probe, a fine-tuning and
students learn from it. The other half are the questions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lirf_core.class_rows import NoRows
from lirf_core.compute import Compute, OutOfMemory, memory_errors
from lirf_core.enumeration import enumerated
from lirf_core.evidence.answers import AnswerSummary, CannotBeMeasured, Shares, require_finite, shares, summarise
from lirf_core.evidence.attacks.comparison import AttackedNetwork, Attacks, Comparison, Field
from lirf_core.evidence.attacks.config import PLANS, Strength
from lirf_core.evidence.distillation import Distillation, features_at_split, plain_cnn, train_student
from lirf_core.evidence.embedding import MIN_IMAGES, embedding
from lirf_core.evidence.images import Labelled, evenly_spaced, halves, sides
from lirf_core.evidence.intervals import MANY
from lirf_core.evidence.membership import Attack, attack
from lirf_core.evidence.results import GOOD, PARTS, Embedding, Evidence
from lirf_core.features import answers_of
from lirf_core.images.preprocessing import Augmentation, Preprocessing
from lirf_core.losses import margins
from lirf_core.metrics import logits_of
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule, RecoverNetwork

Network = TypeVar("Network", bound=nn.Module)
Measured = TypeVar("Measured")
NOT_MEASURED = "It could not be measured. {}"
OTHERS = 50  # preserved classes of which an attacker has images
SHOWN, SHOWN_EACH, SHOWN_CLASSES = 300, 30, 20  # in a picture: images, per class, deposited classes (others: twice)
STUDENT_STEPS, STUDENT_EPOCHS, STUDENT_BATCH = 120, 5, 128
MIN_BATCH, STUDENT_BATCHES = 32, 4  # with few images, batches shrink so that an epoch has this many
STUDENT_PIXELS = 128 * 112 * 112  # in a batch; a step then keeps about 5 GB of activations


@dataclass(frozen=True)
class Networks:
    """The networks to examine. `fresh` is an untrained target; `reference` never saw the deposited classes.

    `original` is the registered network, `before` the one that the deposit started from, None if that is the original.
    `served` is what attackers hold if that is another network than the target, such as a hardened one.
    """

    target: SplitNetwork
    fresh: SplitNetwork
    original: SplitNetwork | None = None
    module: DepositModule | None = None
    reference: SplitNetwork | None = None
    before: SplitNetwork | None = None
    served: SplitNetwork | None = None

    def whole(self) -> dict[str, SplitNetwork]:
        """The trained networks that consist of two parts, by name."""
        named = {"original": self.original, "target": self.target, "reference": self.reference}
        return {name: network for name, network in named.items() if network is not None}


@dataclass(frozen=True)
class Case:
    """The deposit to examine. `members` is its deposit set, or None if that is shredded."""

    classes: Sequence[str]
    deposited: Sequence[int]
    preserved: Sequence[int]
    held_out: Labelled
    members: Labelled | None
    preprocessing: Preprocessing
    augmentation: Augmentation


class Examination:
    """Examines the parts in `PARTS`, one after the other. The networks are not changed.

    compute: for training; exact: for answers. `on_step` gets the name of the part, and what it is doing, for each piece
    of its work, and can raise an exception to stop. strength: of the attackers, see `attacks.config.PLANS`.
    """

    def __init__(
        self,
        networks: Networks,
        case: Case,
        compute: Compute,
        exact: Compute,
        on_step: Callable[[str, str], None] = lambda *_: None,
        seed: int = 0,
        strength: Strength = "small",
    ) -> None:
        self._networks, self._case, self._compute, self._exact = networks, case, compute, exact
        self._on_step, self._part, self._seed, self._strength = on_step, PARTS[0], seed, strength
        self._piece = ""
        self._missing: dict[str, str] = {}
        attacked = [*case.deposited, *evenly_spaced(case.preserved, OTHERS)]
        self._attackers, self._questions = halves(case.held_out.of_classes(attacked), seed)
        self._recover = None
        if networks.module:
            upper_digest = networks.module.upper_digest
            self._recover = RecoverNetwork(networks.target, [networks.module], upper_digest, case.preserved)

    def run(self) -> Evidence:
        """Examine every part."""
        results: dict[str, Any] = {}
        missing = self._missing = {}
        for part in PARTS:
            self._part, self._piece = part, ""
            self._step()
            if reason := self._why_not(part):
                missing[part] = reason
                continue
            try:
                with memory_errors():
                    results[part] = getattr(self, f"_{part}")()
            except OutOfMemory:
                missing[part] = "The device has too little memory for it."
            except CannotBeMeasured as error:
                missing[part] = NOT_MEASURED.format(error)
        if reason := self._scarce_classes():
            missing["classes"] = reason
        if self._networks.original is None:
            missing["original"] = "The original network was destroyed, by a purge or as the model's policy demands."
        if self._networks.module is None:
            missing["recover"] = (
                "The deposit module was purged, so nothing can recover the classes. The rows of the last layer that "
                "named them are gone with it: the target cannot answer with them. Attackers make new ones in any case."
            )
        if self._networks.reference is None:
            missing["reference"] = "No reference was named, a network that never saw the classes, to compare with."
        sets = {"held_out": self._case.held_out, "attackers": self._attackers, "asked": self._questions}
        images = {name: len(labelled) for name, labelled in sets.items()}
        images["members"] = len(self._case.members) if self._case.members else 0
        return Evidence(GOOD, missing, images, **results, classes=len(self._case.classes))

    def _scarce_classes(self) -> str | None:
        counts = self._case.held_out.labels.bincount(minlength=len(self._case.classes))
        absent = [self._case.classes[label] for label in self._case.deposited if not counts[label]]
        rare = [self._case.classes[label] for label in self._case.deposited if 0 < counts[label] < MANY]
        notes = [f"No held-out image of {enumerated(absent)}, so nothing was measured."] if absent else []
        if rare:
            notes.append(f"Fewer than {MANY} held-out images of {enumerated(rare)}, so the figures say little.")
        return " ".join(notes) or None

    def _why_not(self, part: str) -> str | None:
        members = self._case.members
        if part == "membership" and members is None:
            return "The deposit set was shredded."
        held_out = self._case.held_out.of_classes(self._case.deposited)
        if not len(held_out):
            return "The evaluation set has no image of the deposited classes."
        deposited = self._attackers.of_classes(self._case.deposited)
        if part == "distillation" and not len(deposited):
            return "The evaluation set has too few images to split into two halves."
        if part == "embedding" and len(self._pictured()) < MIN_IMAGES:
            return "The evaluation set has too few images for a picture."
        return None

    def _answers(self) -> dict[str, AnswerSummary]:
        case, held_out = self._case, self._case.held_out

        def summary(network: nn.Module) -> AnswerSummary:
            return summarise(self._logits(network, held_out), held_out.labels, case.deposited, case.classes)

        before = {"before": self._networks.before} if self._networks.before else {}
        return self._of_each({**self._all(), **before}, summary)

    def _membership(self) -> dict[str, Attack]:
        assert self._case.members is not None
        members, strangers = sides(self._case.members, self._case.held_out.of_classes(self._case.deposited))
        if not len(members):
            raise CannotBeMeasured("No class has both a member and a held-out image.")
        return self._of_each(
            self._all(),
            lambda network: attack(
                *(margins(self._logits(network, side), side.labels) for side in (members, strangers))
            ),
        )

    def _attacks(self) -> Attacks:
        networks, case = self._networks, self._case
        plan = PLANS[self._strength]
        preserved = evenly_spaced(case.preserved, OTHERS)
        ground = case.preprocessing, case.augmentation, self._compute, self._exact
        field = Field(case.held_out, case.deposited, preserved, *ground)
        has_reference = networks.reference is not None
        comparison = Comparison(field, plan, self._strength, has_reference, self._attack_step, self._seed)
        attacks: dict[str, Callable[[SplitNetwork], AttackedNetwork]] = {
            "original": comparison.attack_original,
            "target": partial(comparison.attack, "target"),
            "reference": partial(comparison.attack, "reference"),
            "fresh": comparison.attack_fresh,
        }
        attacked = {**networks.whole(), "target": networks.served or networks.target, "fresh": networks.fresh}
        results: dict[str, AttackedNetwork] = {}
        for name, measure in attacks.items():
            if name in attacked:
                results |= self._of_each({name: attacked[name]}, measure)
        if "target" not in results:
            raise CannotBeMeasured("The target could not be attacked.")
        return comparison.result(results, networks.served is not None)

    def _attack_step(self, piece: str) -> None:
        self._piece = piece
        self._step()

    def _distillation(self) -> dict[str, dict[str, Shares]]:
        teachers = {"original": self._networks.original, "target": self._networks.target}
        depth, height, width = features_at_split(self._exact.place(self._networks.target), self._case.preprocessing)
        is_map = height > 1 and width > 1  # a transformer's tokens have no place in the image
        ways: list[Distillation] = ["logits", "attention"] if is_map else ["logits"]
        without_teacher = self._student((depth, height, width), None, "logits")
        results: dict[str, dict[str, Shares]] = {}
        for way in ways:
            teach = partial(self._student, (depth, height, width), way=way)
            available = {name: teacher for name, teacher in teachers.items() if teacher is not None}
            results[way] = {"none": without_teacher, **self._of_each(available, teach)}
        return results

    def _student(self, features: tuple[int, int, int], teacher: SplitNetwork | None, way: Distillation) -> Shares:
        preprocessing = self._case.preprocessing
        pixels = preprocessing.height * preprocessing.width
        few = max(MIN_BATCH, len(self._attackers) // STUDENT_BATCHES)
        batch_size = max(8, min(STUDENT_BATCH, few, STUDENT_PIXELS // pixels))
        per_epoch = -(-len(self._attackers) // batch_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            student = plain_cnn(preprocessing.channels, len(self._case.classes), features)
        trained = train_student(
            student,
            teacher,
            self._attackers.images(),
            self._attackers.labels,
            preprocessing,
            self._case.augmentation,
            self._compute,
            way,
            max(STUDENT_EPOCHS, -(-STUDENT_STEPS // per_epoch)),
            batch_size,
            seed=self._seed,
            on_step=lambda *_: self._step(),
        )
        return self._shares(self._logits(trained, self._questions))

    def _of_each(self, networks: dict[str, Network], measure: Callable[[Network], Measured]) -> dict[str, Measured]:
        """Measure each network; if one cannot be measured, note why and go on with the others."""
        results = {}
        for name, network in networks.items():
            try:
                self._piece = name
                results[name] = measure(network)
            except (CannotBeMeasured, NoRows) as error:
                self._missing[f"{self._part}, {name}"] = NOT_MEASURED.format(error)
        return results

    def _embedding(self) -> Embedding:
        pictured, networks = self._pictured(), self._networks
        lowers: dict[str, nn.Module] = {"target": networks.target.lower}
        if networks.original:
            lowers = {"original": networks.original.lower, **lowers}
        if networks.module:
            lowers["module"] = networks.module
        features = {name: self._features(lower, pictured) for name, lower in lowers.items()}
        if self._recover:  # its features are those of the part that gave its answer
            answers = self._logits(self._recover, pictured).argmax(1)
            is_deposited = torch.isin(answers, torch.tensor(sorted(self._case.deposited)))
            features["recover"] = features["module"].where(is_deposited[:, None], features["target"])
        points = {}
        for name, of_network in features.items():
            self._step()
            points[name] = embedding(of_network, self._seed)
        return Embedding(pictured.labels.tolist(), points)

    def _pictured(self) -> Labelled:
        deposited, preserved = (
            evenly_spaced(self._case.deposited, SHOWN_CLASSES),
            evenly_spaced(self._case.preserved, 2 * SHOWN_CLASSES),
        )
        count = min(SHOWN_EACH, SHOWN // (len(deposited) + len(preserved)))
        return self._case.held_out.of_classes([*deposited, *preserved]).first_of_each(count)

    def _all(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = dict(self._networks.whole())
        return {**networks, "recover": self._recover} if self._recover else networks

    def _shares(self, logits: Tensor) -> Shares:
        require_finite(logits)
        labels = self._questions.labels
        return shares(logits.argmax(1) == labels, labels, self._case.deposited)

    def _logits(self, network: nn.Module, labelled: Labelled) -> Tensor:
        placed, preprocessing = self._exact.place(network), self._case.preprocessing
        return labelled.ask(lambda images: logits_of(placed, images, preprocessing, self._exact, self._step))

    def _features(self, lower: nn.Module, labelled: Labelled) -> Tensor:
        """The last layer's features. All networks share one upper part, except the reference."""
        reference, preprocessing = self._networks.reference, self._case.preprocessing
        upper = reference.upper if reference and lower is reference.lower else self._networks.target.upper
        parts = self._exact.place(lower), self._exact.place(upper)
        return labelled.ask(
            lambda images: answers_of(*parts, images, preprocessing, self._exact, on_batch=self._step).features
        )

    def _step(self) -> None:
        self._on_step(self._part, self._piece)
