"""Lay out evidence for the drawings of the console and the certificate (templates/plots.html)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
SIDE = 200  # of a drawing, in its own units


@dataclass(frozen=True)
class Point:
    """A place in a picture. `deposited` is the class's number among the deposited ones, None for a preserved class."""

    x: float
    y: float
    deposited: int | None


@dataclass(frozen=True)
class Line:
    """A named curve. `points` has the format of an SVG polyline."""

    name: str
    points: str


def pictures(evidence: dict[str, Any], deposited: Sequence[int]) -> dict[str, list[Point]]:
    """The embedding by network, preserved classes first, so that deposited ones are drawn over them."""
    if not evidence["embedding"]:
        return {}
    number = {label: place for place, label in enumerate(deposited)}
    labels = evidence["embedding"]["labels"]
    by_network = {}
    for network, places in evidence["embedding"]["points"].items():
        xs, ys = ([place[axis] for place in places] for axis in (0, 1))
        points = [
            Point(_scaled(x, xs), _scaled(y, ys), number.get(label))
            for (x, y), label in zip(places, labels, strict=True)
        ]
        by_network[network] = sorted(points, key=lambda point: point.deposited is not None)
    return by_network


def relearning(evidence: dict[str, Any], budget: int) -> list[Line]:
    """Percent of the deposited classes over steps (logarithmic), for the runs with one number of images.

    budget: the position of that number among the runs.
    """
    lines = []
    for network, runs in evidence["relearning"].items():
        curve = runs[budget]["curve"]
        last = math.log1p(curve[-1]["step"]) or 1.0
        places = [
            (SIDE * math.log1p(point["step"]) / last, SIDE * (1 - point["deposited"] / 100))
            for point in curve
            if point["deposited"] is not None
        ]
        lines.append(Line(network, " ".join(f"{x:.1f},{y:.1f}" for x, y in places)))
    return lines


def bars(counts: Sequence[int]) -> list[float]:
    """Heights of bars; the highest is as high as the drawing."""
    highest = max(counts) or 1
    return [round(SIDE / 2 * count / highest, 1) for count in counts]


def _scaled(value: float, of: Sequence[float]) -> float:
    low, high = min(of), max(of)
    return round(6 + (SIDE - 12) * (value - low) / ((high - low) or 1.0), 1)
