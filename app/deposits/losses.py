"""What a deposit would cost, measured before it is published, and the bounds of the model's policy."""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from app.deposits.class_losses import fallen_warnings
from app.registry.policies import Policy

Source = Literal["evaluation images", "proxies"]
NO_BOUND = 100.0  # points; nothing can lose more


class BeyondBounds(ValueError):
    """The deposit costs more than the model's policy allows, so it is not published. The message has the figures."""


@dataclass(frozen=True)
class Loss:
    """Percentages of `images` that are answered correctly, before and after.

    On proxies: answered like the network before the deposit, which is then 100 % by definition.
    """

    before: float
    after: float
    images: int
    source: Source

    @property
    def points(self) -> float:
        """Percentage points that are lost; below 0 if something was gained."""
        return round(self.before - self.after, 4)


@dataclass(frozen=True)
class Losses:
    """What the preserved classes lose by one deposit (`preserved`), since the original network (`total`), and what the
    classes of each older deposit lose by it (`modules`, by the deposit's id).

    Several losses of the same classes come from several sources: evaluation images, and proxies for classes of which
    there are no images that the network before the deposit clearly knows. `total` is None if nothing could be measured.
    `notes`: what is wrong with the evaluation set.
    """

    preserved: list[Loss] = field(default_factory=list)
    total: float | None = None
    modules: dict[str, list[Loss]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def deposit_warnings(
    metrics: dict[str, Any] | None, losses: dict[str, Any] | None, deposited: Collection[str]
) -> list[str]:
    """What a reader of a published deposit's averages must know. deposited: its classes."""
    warnings: list[str] = []
    if losses and any(loss["source"] == "proxies" for loss in _all(losses)):
        warnings.append(
            "Part of the loss was measured on generated images (proxies), because the evaluation set has no images of "
            "some classes that the network before the deposit clearly knows. Proxies are no proof: upload held-out "
            "images of all classes."
        )
    if metrics is None:
        return warnings
    before, original = metrics["before"], metrics["original"]
    warnings += (losses or {}).get("notes", [])
    preserved = before["by_class"].keys() - set(deposited)
    after = metrics["target"]["by_class"]
    warnings += fallen_warnings("by this deposit", before["by_class"], after, preserved)
    if original and original != before:
        warnings += fallen_warnings("since the original network", original["by_class"], after, preserved)
    return warnings


def _all(losses: dict[str, Any]) -> list[dict[str, Any]]:
    return [loss for of in (losses["preserved"], *losses["modules"].values()) for loss in of]


def worst(losses: list[Loss]) -> Loss | None:
    """The largest of several losses of the same classes."""
    return max(losses, key=lambda loss: loss.points, default=None)


def demand_within(losses: Losses, policy: Policy, model: str) -> None:
    """Raises `BeyondBounds`. A loss that was not measured is beyond every bound but `NO_BOUND`."""
    if faults := list(_faults(losses, policy)):
        raise BeyondBounds(
            f"It was not published, and nothing was changed. {' '.join(faults)} Try the default settings, more images "
            f"of the classes to forget, or a later split. An administrator can change the bounds with `lirf policy "
            f"{model}`."
        )


def _faults(losses: Losses, policy: Policy) -> Iterator[str]:
    yield from _beyond("the preserved classes", losses.preserved, policy.max_preserved_loss)
    if policy.max_total_loss < NO_BOUND and (losses.total is None or losses.total > policy.max_total_loss):
        lost = "an unknown number of" if losses.total is None else f"{losses.total:.1f}"
        yield (
            f"Since the original network the preserved classes lose {lost} points in all; the policy allows "
            f"{policy.max_total_loss:g}."
        )
    for deposit_id, of_module in losses.modules.items():
        yield from _beyond(f"the classes of the older deposit '{deposit_id}'", of_module, policy.max_module_loss)


def _beyond(classes: str, losses: list[Loss], bound: float) -> Iterator[str]:
    if bound >= NO_BOUND:
        return
    loss = worst(losses)
    if loss is None:
        yield f"What {classes} lose could not be measured; the policy allows {bound:g} points."
    elif loss.points > bound:
        how = "correctly" if loss.source == "evaluation images" else "as before"
        yield (
            f"Of {loss.images} {loss.source} of {classes}, {loss.before:.1f} % were answered {how} before and "
            f"{loss.after:.1f} % after: a loss of {loss.points:.1f} points; the policy allows {bound:g}."
        )
