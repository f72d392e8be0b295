"""Lay out evidence for the drawings of the console and the certificate (templates/plots.html)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.evidence import attack_figures

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


def relearning(evidence: dict[str, Any]) -> dict[int, list[Line]]:
    """By the attackers' images of each class: percent of the deposited images that are read, over steps (logarithmic).

    What is read after more steps is never less, because an attacker may stop earlier; evidence of an earlier version
    has the answers after each step.
    """
    attacks = attack_figures.measured(evidence)
    curves = attack_figures.curves(attacks) if attacks else _earlier(evidence)
    return {
        images: [Line(name, _polyline(points)) for name, points in of.items() if points]
        for images, of in curves.items()
    }


def _earlier(evidence: dict[str, Any]) -> dict[int, dict[str, list[tuple[int, float]]]]:
    by_images: dict[int, dict[str, list[tuple[int, float]]]] = {}
    for network, runs in (evidence.get("relearning") or {}).items():
        for run in runs:
            points = [(point["step"], point["deposited"]) for point in run["curve"] if point["deposited"] is not None]
            by_images.setdefault(run["images_each"], {})[network] = points
    return by_images


def _polyline(points: Sequence[tuple[int, float]]) -> str:
    last = math.log1p(points[-1][0]) or 1.0
    return " ".join(
        f"{SIDE * math.log1p(step) / last:.1f},{SIDE * (1 - percent / 100):.1f}" for step, percent in points
    )


def bars(counts: Sequence[int]) -> list[float]:
    """Heights of bars; the highest is as high as the drawing."""
    highest = max(counts) or 1
    return [round(SIDE / 2 * count / highest, 1) for count in counts]


def _scaled(value: float, of: Sequence[float]) -> float:
    low, high = min(of), max(of)
    return round(6 + (SIDE - 12) * (value - low) / ((high - low) or 1.0), 1)
