"""What networks know of an evaluation set, and what a deposit costs: measured before it is published."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from app.deposits.losses import NO_BOUND, Loss, worst
from lirf_core import metrics
from lirf_core.agreement import agreement
from lirf_core.compute import Compute
from lirf_core.enumeration import enumerated
from lirf_core.evidence.chance import knows_anything, unknown
from lirf_core.evidence.images import Labelled
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
    """Asks networks about an evaluation set, if there is one, and about proxies made from the deposit set."""

    held_out: Labelled | None
    deposit_images: Tensor
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
        if self.held_out is None:
            return None
        return metrics.tally(self.logits(network, self.held_out), self.held_out.labels)

    def losses(self, compared: Comparison, classes: Sequence[int], bound: float) -> list[Loss]:
        """What these classes lose. On proxies, too, unless evaluation images show each class and it is clearly known.

        An evaluation set that leaves out classes, or has wrong images, must not hide a loss. bound: at `NO_BOUND`
        proxies are not worth their time.
        """
        losses: list[Loss] = []
        hidden = list(classes)
        if compared.tally_before and compared.tally_after:
            before, after = compared.tally_before.percent(classes), compared.tally_after.percent(classes)
            hidden = unknown(compared.tally_before, classes)
            if before is not None and after is not None:
                losses.append(Loss(before, after, compared.tally_before.images_of(classes), "evaluation images"))
        if hidden and bound < NO_BOUND and (loss := self._on_proxies(compared, hidden)):
            losses.append(loss)
        return losses

    def _on_proxies(self, compared: Comparison, classes: Sequence[int]) -> Loss | None:
        before, after = self.inference.place(compared.before), self.inference.place(compared.after)
        agreed = agreement(
            before, after, self.deposit_images, classes, self.preprocessing, self.inference, self.on_batch
        )
        return Loss(100.0, agreed.percent, agreed.images, "proxies") if agreed else None


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


def total_loss(direct: list[Loss], preserved: list[Loss], earlier: float) -> float | None:
    """Points that the preserved classes have lost since the original network.

    direct: compared with the original; empty if it was destroyed. Then the losses of all deposits add up. preserved:
    by this deposit. earlier: by those before it.
    """
    if loss := worst(direct):
        return loss.points
    own = worst(preserved)
    return None if own is None else round(earlier + max(own.points, 0.0), 4)


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
