"""Figures of a measurement, from how many images of each class its networks answer correctly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.deposits.class_losses import fallen_warnings
from lirf_core.tally import Tally


@dataclass(frozen=True)
class Figures:
    """What a measurement found, as JSON: views (the target's first), the original network by class, and warnings."""

    views: list[dict[str, Any]]
    original: dict[str, float | None] | None
    warnings: list[str]


def figures_of(
    views: Sequence[tuple[Sequence[str], Tally, Sequence[int]]],
    original: Tally | None,
    names: Sequence[str],
    preserved: Sequence[int],
) -> Figures:
    """views: the ids of the withdrawn deposits, how the network answers, and the classes of these deposits.

    names: of all classes. preserved: class indices.
    """
    found = [view(deposits, tally, original, names, preserved, classes) for deposits, tally, classes in views]
    for between, (_, _, classes) in zip(found[1:-1], views[1:-1], strict=True):
        own = {names[index] for index in classes}  # with a thousand deposits, all classes of each would be a million
        between["by_class"] = {name: percent for name, percent in between["by_class"].items() if name in own}
    known = by_class(original, names) if original else None
    kept = {names[index] for index in preserved}
    warnings = fallen_warnings("since the original network", known, found[0]["by_class"], kept) if known else []
    return Figures(found, known, warnings)


def view(
    deposits: Sequence[str],
    tally: Tally,
    original: Tally | None,
    names: Sequence[str],
    preserved: Sequence[int],
    withdrawn: Sequence[int],
) -> dict[str, Any]:
    """A `View` as JSON. preserved, withdrawn: class indices; a class of withdrawn single images is in both."""
    preserved = sorted(set(preserved) - set(withdrawn))
    return {
        "deposits": list(deposits),
        "preserved_accuracy": tally.percent(preserved),
        "preserved_loss": _lost(tally, original, preserved),
        "withdrawn_accuracy": tally.percent(withdrawn),
        "withdrawn_loss": _lost(tally, original, withdrawn),
        "average_accuracy": tally.percent(sorted([*preserved, *withdrawn])),
        "by_class": by_class(tally, names),
    }


def by_class(tally: Tally, names: Sequence[str]) -> dict[str, float | None]:
    """Percent of each class that has images."""
    return {name: tally.percent([index]) for index, name in enumerate(names) if tally.images[index]}


def _lost(tally: Tally, original: Tally | None, classes: Sequence[int]) -> float | None:
    after, before = tally.percent(classes), original.percent(classes) if original else None
    return None if after is None or before is None else round(before - after, 4)
