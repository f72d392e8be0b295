"""What networks know of an evaluation set, and what a deposit costs: measured before it is published."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from app.deposits.losses import NO_BOUND, PROXY_FACTOR, ClassLoss, Loss, Source, worst
from lirf_core import metrics
from lirf_core.agreement import agreement
from lirf_core.compute import Compute
from lirf_core.enumeration import enumerated
from lirf_core.evidence.chance import knows_anything, unknown
from lirf_core.evidence.images import Labelled
from lirf_core.evidence.intervals import interval
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.tally import Tally

CHECK = "Check the names of the folders, the images and the model's preprocessing."


@dataclass(frozen=True)
class Comparison:
    """Two networks that answer for the same classes, the earlier one first, and how they answer an evaluation set."""

    before: nn.Module
    after: nn.Module
    tally_before: Tally | None
    tally_after: Tally | None


@dataclass(frozen=True, eq=False)
class Measuring:
    """Asks networks about an evaluation set, if there is one, about a deposit set, and about proxies made from it."""

    held_out: Labelled | None
    deposit_set: Labelled
    names: Sequence[str]
    preprocessing: Preprocessing
    inference: Compute
    on_batch: Callable[[], None] = field(default=lambda: None)

    def logits(self, network: nn.Module, images: Labelled) -> Tensor:
        """float32 (N, classes)."""
        placed = self.inference.place(network)
        return images.ask(
            lambda batch: metrics.logits_of(placed, batch, self.preprocessing, self.inference, self.on_batch)
        )

    def tally(self, network: nn.Module) -> Tally | None:
        """None without an evaluation set."""
        return None if self.held_out is None else self._tally(network, self.held_out)

    def losses(self, compared: Comparison, classes: Sequence[int], bound: float) -> list[Loss]:
        """What these classes lose. On proxies, too, unless evaluation images show each class and it is clearly known.

        An evaluation set that leaves out classes, or has wrong images, must not hide a loss. bound: at `NO_BOUND`
        proxies are not worth their time.
        """
        losses, hidden = self._on_evaluation_images(compared, classes)
        if hidden and bound < NO_BOUND:
            losses += self._on_proxies(compared, hidden)
        return losses

    def losses_of_deposited(self, compared: Comparison, classes: Sequence[int], bound: float) -> list[Loss]:
        """What the deposited classes lose when they are withdrawn.

        Instead of evaluation images, the deposit set shows a class: real images say more than proxies, which remain for
        a class that is not clearly known there either.
        """
        losses, hidden = self._on_evaluation_images(compared, classes)
        if hidden and bound < NO_BOUND:
            own = self.deposit_set.of_classes(hidden)
            before, after = (self._tally(network, own) for network in (compared.before, compared.after))
            doubtful = unknown(before, hidden)
            losses += self._loss(before, after, [i for i in hidden if i not in doubtful], "deposit images")
            if doubtful:
                losses += self._on_proxies(compared, doubtful)
        return losses

    def _on_evaluation_images(self, compared: Comparison, classes: Sequence[int]) -> tuple[list[Loss], list[int]]:
        """What shows there, and the classes that the network before does not clearly know there."""
        before, after = compared.tally_before, compared.tally_after
        if before is None or after is None:
            return [], list(classes)
        return self._loss(before, after, classes, "evaluation images"), unknown(before, classes)

    def _tally(self, network: nn.Module, images: Labelled) -> Tally:
        return metrics.tally(self.logits(network, images), images.labels)

    def _on_proxies(self, compared: Comparison, classes: Sequence[int]) -> list[Loss]:
        before, after = self.inference.place(compared.before), self.inference.place(compared.after)
        agreed = agreement(
            before, after, self.deposit_set.images(), classes, self.preprocessing, self.inference, self.on_batch
        )
        return self._loss(Tally(agreed.images, agreed.images), agreed, classes, "proxies")

    def _loss(self, before: Tally, after: Tally, classes: Sequence[int], source: Source) -> list[Loss]:
        """None without an image of these classes, otherwise one."""
        start, end = before.percent(classes), after.percent(classes)
        if start is None or end is None:
            return []
        fallen = [
            self._class_loss(index, before, after, source, 0.05 / len(classes))
            for index in classes
            if before.images[index]
        ]
        return [Loss(start, end, before.images_of(classes), source, max(fallen, key=lambda one: one.certain))]

    def _class_loss(self, index: int, before: Tally, after: Tally, source: Source, tail: float) -> ClassLoss:
        """tail: the probability that so low a share is chance. It is smaller the more classes are looked at."""
        images = before.images[index]
        start, end = 100 * before.correct[index] / images, 100 * after.correct[index] / images
        certain = (start - interval(end, images, tail)[1]) / (PROXY_FACTOR if source == "proxies" else 1)
        return ClassLoss(self.names[index], round(start, 4), round(end, 4), images, round(certain, 4))


def chance_notes(tally: Tally, answering: Sequence[int], deposited: Sequence[int], names: Sequence[str]) -> list[str]:
    """Say what a network that should know an evaluation set does not clearly know of it."""
    images, chance = tally.images_of(answering), 100 / len(names)
    if images and not knows_anything(tally, answering):
        note = (
            f"The network before the deposit answers {tally.percent(answering):.1f} % of {images} evaluation images "
            f"correctly, not clearly more than by chance ({chance:.1f} %). {CHECK}"
        )
        return [note]
    doubtful = enumerated([f"“{names[i]}”" for i in unknown(tally, deposited) if tally.images[i]])
    note = (
        f"The network before the deposit does not clearly know {doubtful} on the evaluation set, so its figures say "
        f"nothing of forgetting there. {CHECK}"
    )
    return [note] if doubtful else []


def worst_class(losses: list[Loss]) -> ClassLoss | None:
    """The class that has lost most for certain."""
    classes = [loss.worst_class for loss in losses if loss.worst_class]
    return max(classes, key=lambda one: one.certain, default=None)


def total_loss(direct: list[Loss], by_this: list[Loss], earlier: float) -> float | None:
    """Points that classes have lost since the original network, as they count.

    direct: compared with the original; empty if it was destroyed. Then the losses of all deposits add up. by_this: by
    this deposit. earlier: by those before it.
    """
    if loss := worst(direct):
        return loss.counted
    own = worst(by_this)
    return None if own is None else round(earlier + max(own.counted, 0.0), 4)


def summary(tally: Tally, names: Sequence[str], preserved: Sequence[int], deposited: Sequence[int]) -> dict[str, Any]:
    """Percentages as `app.deposits.schemas.NetworkAccuracy` has them."""
    answering = sorted([*preserved, *deposited])
    return {
        "preserved_accuracy": tally.percent(preserved),
        "deposited_accuracy": tally.percent(deposited),
        "average_accuracy": tally.percent(answering),
        "by_class": {names[index]: tally.percent([index]) for index in answering},
    }


def recorded_tally(by_class: dict[str, float | None], names: Sequence[str], images: Tally) -> Tally:
    """The tally of a network that no longer exists, from its recorded percentages on the same evaluation set."""
    correct = tuple(
        round((by_class.get(name) or 0.0) * count / 100) for name, count in zip(names, images.images, strict=True)
    )
    return Tally(correct, images.images)
