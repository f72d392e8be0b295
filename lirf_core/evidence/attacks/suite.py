"""All attacks on one network by one attacker, and the best of them."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import torch
from torch import Generator, Tensor

from lirf_core.class_rows import last_layer, with_rows
from lirf_core.evidence.answers import CannotBeMeasured
from lirf_core.evidence.attacks.attacker import Attacker, Attempt, Read, attempt
from lirf_core.evidence.attacks.config import AttackConfig, Head, Readout
from lirf_core.evidence.attacks.readout import learnt_rows, ridge
from lirf_core.evidence.attacks.statistic import Accuracies, accuracies
from lirf_core.evidence.attacks.training_free import (
    centred_cosines,
    prototypes,
    with_nearest_prototypes,
    with_statistics_of,
    write_prototypes,
)
from lirf_core.evidence.probe import linear_probe
from lirf_core.evidence.relearning import FineTuning, fine_tuned
from lirf_core.features import Answers
from lirf_core.network import SplitNetwork

# Where attackers read features. The lower part knows much that the upper part no longer tells apart.
DEPTHS: dict[str, Callable[[Answers], Tensor]] = {"": attrgetter("features"), " at the split": attrgetter("split")}


@dataclass(frozen=True)
class Attacked:
    """A network's accuracies before any attack, and every attempt."""

    before: Accuracies
    attempts: list[Attempt]


def attacked(
    network: SplitNetwork,
    answered: Sequence[int],
    attacker: Attacker,
    config: AttackConfig,
    *,
    tries_preserved_alone: bool = True,
) -> Attacked:
    """Make every attack. A network without deposited rows gets new ones, which say nothing.

    answered: the class of each of the network's rows, ascending. tries_preserved_alone: fine-tuning on preserved images
    alone, too. The network is not changed. An attempt that ends with answers that are not finite is left out.
    """
    whole = with_rows(network, answered, attacker.classes)
    return Suite(whole, attacker, config, tries_preserved_alone).run()


def best(attempts: Sequence[Attempt], images: int, steps: int) -> Attempt:
    """The best attempt, by the attacker's tuning images, with at most so many images of each class and steps."""
    possible = [one for one in attempts if one.images <= images and one.steps <= steps]
    if not possible:
        raise CannotBeMeasured(f"There is no attack with {images} images of each class and {steps} steps.")
    return max(possible, key=lambda one: (one.tuned, one.at_cost.deposited))


class Suite:
    """Attacks a network that has a row for each class."""

    def __init__(
        self, network: SplitNetwork, attacker: Attacker, config: AttackConfig, tries_preserved_alone: bool = True
    ) -> None:
        self._network, self._attacker, self._config = network, attacker, config
        self._tries_preserved_alone = tries_preserved_alone
        self._asked = self._answers(network)
        own = attacker.tuning.labels, attacker.deposited
        self._floor = accuracies(self._asked[0].logits, *own).preserved - config.cost

    def run(self) -> Attacked:
        """Every attempt, the cheapest first."""
        before = accuracies(self._asked[1].logits, self._attacker.questions.labels, self._attacker.deposited)
        attempts = [*self._bias(), *self._readouts()]
        for count in self._config.images:
            attempts += [
                *self._prototypes(count, self._network, self._asked, "prototypes"),
                *self._statistics(count),
                *self._fine_tuning(count),
            ]
        return Attacked(before, attempts)

    def _bias(self) -> Iterator[Attempt]:
        """A constant on the deposited logits: no image, no step."""
        yield self._attempt("bias", "", 0, 0, _logits(self._asked))

    def _readouts(self) -> Iterator[Attempt]:
        """New readouts at each depth: of all classes, or of the deposited ones beside preserved logits that stay."""
        attacker, config = self._attacker, self._config
        for count in config.probe_images:
            images, labels = attacker.few(count)
            answers = attacker.ask(self._network, images)
            for place, features in DEPTHS.items():
                seen = features(answers), answers.logits, labels
                asked = [(features(of), of.logits) for of in self._asked]
                for penalty in config.penalties:
                    for readout in config.readouts:
                        read = self._read(readout, seen, asked, penalty)
                        yield self._attempt(f"{readout}{place}", f"penalty {penalty:g}", count, 0, read)

    def _read(
        self,
        readout: Readout,
        seen: tuple[Tensor, Tensor, Tensor],
        asked: list[tuple[Tensor, Tensor]],
        penalty: float,
    ) -> Read:
        """seen: features, logits and labels of learning images; asked: features and logits of the others."""
        features, _, labels = seen
        questions, classes = [of for of, _ in asked], self._attacker.classes
        if readout == "learnt rows":
            return Read(*learnt_rows(seen, asked, self._attacker.deposited, penalty))
        if readout == "ridge probe":
            return Read(*ridge((features, labels), questions, classes, penalty))
        both = linear_probe((features, labels), torch.cat(questions), classes, penalty)
        return Read(*torch.split(both, [len(of) for of in questions]))

    def _prototypes(
        self, count: int, network: SplitNetwork, asked: tuple[Answers, Answers], name: str
    ) -> Iterator[Attempt]:
        """New deposited logits by the distance from class means, at each depth; the preserved ones stay."""
        attacker = self._attacker
        images, labels = attacker.few(count)
        answers = attacker.ask(network, images)
        preserved = answers.logits[:, sorted(attacker.preserved)]
        for place, features in DEPTHS.items():
            means = prototypes(features(answers), labels, range(attacker.classes))
            spread = (preserved.std() / centred_cosines(features(answers), means).std().clamp_min(1e-12)).item()
            for scale in self._config.scales:
                nearest = partial(with_nearest_prototypes, deposited=attacker.deposited, scale=scale * spread)
                read = Read(*(nearest(of.logits, features(of), means) for of in asked))
                yield self._attempt(f"{name}{place}", f"scale {scale:g}", count, 0, read)

    def _statistics(self, count: int) -> Iterator[Attempt]:
        """Batch norm learns its statistics again, and then a constant or prototypes."""
        attacker = self._attacker
        images, _ = attacker.few(count)
        moved = with_statistics_of(self._network, images, attacker.preprocessing, attacker.exact)
        if moved is not None:
            asked = self._answers(moved)
            yield self._attempt("batch norm", "", count, 0, _logits(asked))
            yield from self._prototypes(count, moved, asked, "batch norm, prototypes")

    def _fine_tuning(self, count: int) -> Iterator[Attempt]:
        """Every layer learns, from several heads and with several learning rates, or from preserved images alone."""
        attacker, config = self._attacker, self._config
        few = attacker.few(count)
        is_preserved = torch.isin(few[1], torch.tensor(sorted(attacker.preserved)))
        preserved_alone = few[0][is_preserved], few[1][is_preserved]
        ways: list[tuple[str, Head, tuple[Tensor, Tensor]]] = [
            *((f"fine-tuning, head {head}", head, few) for head in config.heads)
        ]
        if self._tries_preserved_alone:
            ways.append(("fine-tuning, preserved images alone", "as it is", preserved_alone))
        for name, head, images in ways:
            started = self._with_head(head, few)
            for rate in config.learning_rates:
                yield from self._curve(started, images, name, rate, count)

    def _curve(
        self, started: SplitNetwork, few: tuple[Tensor, Tensor], name: str, rate: float, count: int
    ) -> Iterator[Attempt]:
        attacker, config = self._attacker, self._config
        how = FineTuning(config.steps, rate, config.batch_size, seed=config.seed)
        learners = fine_tuned(
            started, few, attacker.preprocessing, attacker.augmentation, attacker.compute, how, attacker.on_step
        )
        try:
            for step, learner in learners:
                read = attacker.logits(learner, attacker.compute)
                yield self._attempt(name, f"learning rate {rate:g}", count, step, read)
        except CannotBeMeasured:
            return  # too high a learning rate: this attacker gets nothing, and the others remain

    def _with_head(self, head: Head, few: tuple[Tensor, Tensor]) -> SplitNetwork:
        network = copy.deepcopy(self._network)
        layer, attacker = last_layer(network.upper), self._attacker
        if head == "reset":
            with torch.no_grad():
                bound = layer.in_features**-0.5
                generator = Generator().manual_seed(self._config.seed)
                for parameter in layer.parameters():
                    parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
        elif head == "prototypes":
            rows = prototypes(attacker.ask(self._network, few[0]).features, few[1], attacker.deposited)
            write_prototypes(layer, rows, attacker.deposited, attacker.preserved)
        return network

    def _attempt(self, attack: str, settings: str, images: int, steps: int, read: Read) -> Attempt:
        return attempt(attack, settings, images, steps, read, self._attacker, self._floor)

    def _answers(self, network: SplitNetwork) -> tuple[Answers, Answers]:
        """To the tuning images and to the questions."""
        attacker = self._attacker
        return attacker.ask(network, attacker.tuning.images()), attacker.ask(network, attacker.questions.images())


def _logits(asked: tuple[Answers, Answers]) -> Read:
    return Read(*(of.logits for of in asked))
