"""What is found, laid out for the drawings of the console and the certificate: templates/plots.html."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
SIDE = 200  # of a drawing, in its own units


@dataclass(frozen=True)
class Point:
    """A place in a picture, and the number among the deposited classes; None for a preserved class."""

    x: float
    y: float
    deposited: int | None


@dataclass(frozen=True)
class Line:
    """A curve by its name; `points` as SVG's polyline has them."""

    name: str
    points: str


def pictures(found: dict[str, Any], deposited: Sequence[int]) -> dict[str, list[Point]]:
    """The embedding of each network, preserved classes first, so that deposited ones lie over them."""
    if not found["embedding"]:
        return {}
    number = {label: place for place, label in enumerate(deposited)}
    labels = found["embedding"]["labels"]
    drawn = {}
    for network, places in found["embedding"]["points"].items():
        xs, ys = ([place[axis] for place in places] for axis in (0, 1))
        points = [
            Point(_scaled(x, xs), _scaled(y, ys), number.get(label))
            for (x, y), label in zip(places, labels, strict=True)
        ]
        drawn[network] = sorted(points, key=lambda point: point.deposited is not None)
    return drawn


def relearning(found: dict[str, Any], budget: int) -> list[Line]:
    """Percent of the deposited classes by steps, of the runs with the same number of images; steps by logarithm."""
    lines = []
    for network, runs in found["relearning"].items():
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
    """Heights, the highest as high as the drawing."""
    highest = max(counts) or 1
    return [round(SIDE / 2 * count / highest, 1) for count in counts]


def _scaled(value: float, of: Sequence[float]) -> float:
    low, high = min(of), max(of)
    return round(6 + (SIDE - 12) * (value - low) / ((high - low) or 1.0), 1)
