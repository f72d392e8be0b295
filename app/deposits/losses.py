"""What a deposit would cost, measured before it is published, and the bounds of the model's policy."""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from app.deposits.class_losses import NOTICEABLE, fallen_warnings
from app.registry.policies import Policy
from lirf_core.config import MIN_STEPS, DepositConfig

Source = Literal["evaluation images", "deposit images", "proxies"]
NO_BOUND = 100.0  # points; nothing can lose more
# Deposits of digits that lost 0.2, 0.5 and 1.6 points on held-out images lost 2.7, 3.5 and 3.1 on proxies.
PROXY_FACTOR = 2  # points lost on proxies for one point of a bound
CLASS_FACTOR = 4  # how many times a bound a single class may lose, so that an average cannot hide its end


class BeyondBounds(ValueError):
    """The deposit costs more than the model's policy allows, so it is not published. The message has the figures."""


@dataclass(frozen=True)
class ClassLoss:
    """Percentages of the images of one class.

    certain: the points that it has lost at least, with 95 % confidence; those on proxies count as in `Loss.counted`.
    """

    name: str
    before: float
    after: float
    images: int
    certain: float


@dataclass(frozen=True)
class Loss:
    """Percentages of `images` that are answered correctly, before and after.

    On proxies: answered like the network before the deposit, which is then 100 % by definition. worst_class: the one
    that has lost most for certain.
    """

    before: float
    after: float
    images: int
    source: Source
    worst_class: ClassLoss | None = None

    @property
    def points(self) -> float:
        """Percentage points that are lost; below 0 if something was gained."""
        return round(self.before - self.after, 4)

    @property
    def counted(self) -> float:
        """The points that count against a bound. Proxies are harder than images, so fewer of theirs do."""
        return round(self.points / PROXY_FACTOR, 4) if self.source == "proxies" else self.points


@dataclass(frozen=True)
class Losses:
    """What a deposit costs. `preserved`, `total`: what the preserved classes lose by it and since the original network.
    `recovered`: what the deposited classes lose when they are withdrawn. `modules`, `module_totals`: what the classes
    of each older deposit lose by it and since the original network, by that deposit's id.

    Several losses of the same classes come from several sources: evaluation images, and proxies for classes of which
    there are no images that the network before the deposit clearly knows. A total is None if nothing could be measured.
    `total_class`: the preserved class that has lost most since the original network. `notes`: what is wrong with the
    evaluation set. `scrubs`: what the classes of each older deposit lose by this one if its scrubbed module, which
    waits, is in use before and after; and what this deposit's own lose if its own is.
    """

    preserved: list[Loss] = field(default_factory=list)
    total: float | None = None
    total_class: ClassLoss | None = None
    recovered: list[Loss] = field(default_factory=list)
    modules: dict[str, list[Loss]] = field(default_factory=dict)
    module_totals: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    scrubs: dict[str, list[Loss]] = field(default_factory=dict)

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
    if losses and any(loss["source"] == "deposit images" for loss in _all(losses)):
        warnings.append(
            "What a withdrawal brings back was measured on the deposit set, because the evaluation set has no images "
            "of some deposited classes that the network before the deposit clearly knows. Networks answer the images "
            "they were trained on better than others: upload held-out images of all classes."
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
    start, end = before["preserved_accuracy"], metrics["recover"]["preserved_accuracy"]
    if start is not None and end is not None and start - end > NOTICEABLE:
        warnings.append(
            f"When this deposit is withdrawn, preserved classes are answered correctly less often: {end:.1f} % instead "
            f"of {start:.1f} %. More steps (`epochs`) usually mend that."
        )
    return warnings


def _all(losses: dict[str, Any]) -> list[dict[str, Any]]:
    """Every loss of stored `Losses`. Older ones lack `recovered`."""
    waiting = losses.get("scrubs", {}).values()
    groups = losses["preserved"], losses.get("recovered", []), *losses["modules"].values(), *waiting
    return [loss for group in groups for loss in group]


def counted(loss: dict[str, Any]) -> float:
    """`Loss.counted` of a stored loss; 0 if something was gained."""
    return max(Loss(loss["before"], loss["after"], loss["images"], loss["source"]).counted, 0.0)


def worst(losses: list[Loss]) -> Loss | None:
    """The largest of several losses of the same classes."""
    return max(losses, key=lambda loss: loss.counted, default=None)


def demand_within(losses: Losses, policy: Policy, model: str, config: DepositConfig, job: str = "deposit") -> None:
    """Raises `BeyondBounds`. A loss that was not measured is beyond every bound but `NO_BOUND`.

    job: what costs so much.
    """
    if faults := list(_faults(losses, policy, job)):
        raise BeyondBounds(
            f"It was not published, and nothing was changed. {' '.join(faults)} {_advice(losses, config)} An "
            f"administrator can change the bounds with `lirf policy {model}`."
        )


def _advice(losses: Losses, config: DepositConfig) -> str:
    advice = "Try the default settings, more images of the classes to forget, or a later split."
    if config.epochs is not None:
        epochs = "1 epoch" if config.epochs == 1 else f"{config.epochs} epochs"
        advice += f" It trained for {epochs}; without `epochs` a deposit trains for at least {MIN_STEPS} steps."
    if any(loss.source == "proxies" for loss in [*losses.preserved, *losses.recovered]):
        advice += (
            " Proxies are generated images and only an estimate: upload held-out images of all classes as an "
            "evaluation set, so that the loss is measured on them."
        )
    return advice


def _faults(losses: Losses, policy: Policy, job: str) -> Iterator[str]:
    yield from preserved_faults(losses, policy, job)
    yield from _beyond("the deposited classes when withdrawn", losses.recovered, policy.max_module_loss, job)
    for deposit_id, of_module in losses.modules.items():
        classes = f"the classes of the older deposit '{deposit_id}'"
        yield from _beyond(classes, of_module, policy.max_module_loss)
        yield from _beyond_in_all(classes, losses.module_totals.get(deposit_id), policy.max_total_loss)
    for deposit_id, of_scrubbed in losses.scrubs.items():
        age = "older " if deposit_id in losses.modules else ""
        classes = f"the classes of the {age}deposit '{deposit_id}', with the module that waits for a purge"
        yield from _beyond(classes, of_scrubbed, policy.max_module_loss, job)


def preserved_faults(losses: Losses, policy: Policy, job: str = "deposit") -> Iterator[str]:
    """What the preserved classes lose beyond the policy's bounds, in sentences. job: what they lose it by."""
    preserved = "the preserved classes"
    yield from _beyond(preserved, losses.preserved, policy.max_preserved_loss, job)
    yield from _beyond_in_all(preserved, losses.total, policy.max_total_loss)
    if losses.total_class:
        yield from _class_beyond(losses.total_class, "images", "since the original network", policy.max_total_loss)


def _beyond(classes: str, losses: list[Loss], bound: float, job: str = "deposit") -> Iterator[str]:
    if bound >= NO_BOUND:
        return
    loss = worst(losses)
    if loss is None:
        yield f"What {classes} lose could not be measured; the policy allows {bound:g} points."
    elif loss.counted > bound:
        answered = f"{loss.before:.1f} % were answered correctly before and {loss.after:.1f} % after"
        counts = ""
        if loss.source == "proxies":
            answered = f"{loss.after:.1f} % are answered as before the {job}"
            counts = f", of which one in {PROXY_FACTOR} counts on proxies ({loss.counted:.1f})"
        yield (
            f"Of {loss.images} {loss.source} of {classes}, {answered}: a loss of {loss.points:.1f} points{counts}; "
            f"the policy allows {bound:g}."
        )
    for one in losses:
        if one.worst_class:
            yield from _class_beyond(one.worst_class, one.source, f"by this {job}", bound)


def _class_beyond(one: ClassLoss, source: str, since: str, bound: float) -> Iterator[str]:
    """A class that an average hides. Only what few images cannot explain counts."""
    if one.certain > CLASS_FACTOR * bound:
        yield (
            f"The class “{one.name}” fell from {one.before:.1f} % to {one.after:.1f} % of {one.images} {source} "
            f"{since}; the policy allows a single class {CLASS_FACTOR * bound:g} points."
        )


def _beyond_in_all(classes: str, total: float | None, bound: float) -> Iterator[str]:
    if bound < NO_BOUND and (total is None or total > bound):
        lost = "an unknown number of" if total is None else f"{total:.1f}"
        yield f"Since the original network {classes} lose {lost} points in all; the policy allows {bound:g}."
