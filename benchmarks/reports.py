"""Outcomes as JSON and Markdown: mean and spread over seeds, and when and where they were measured."""

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from benchmarks.experiments import RESULTS

Outcomes = Mapping[str, Sequence[dict[str, Any]]]
Column = Callable[[dict[str, Any]], float | None]

COLUMNS: dict[str, Column] = {
    "target Pre": lambda one: one["target"]["preserved"],
    "target Dep": lambda one: one["target"]["deposited"],
    "F": lambda one: one["forgetting"],
    "H": lambda one: one["h_mean"],
    "recover Pre": lambda one: one["recover"]["preserved"],
    "recover Dep": lambda one: one["recover"]["deposited"],
    "recover Avg": lambda one: one["recover"]["average"],
    "probe Dep": lambda one: one["target"]["probe"]["deposited"],
    "module, % of bytes": lambda one: 100 * one["module_bytes"] / one["original_bytes"],
    "seconds": lambda one: one["deposit_seconds"],
}


def cell(values: Sequence[float | None]) -> str:
    """The mean and, for several seeds, the sample standard deviation."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    spread = f" ± {stdev(numbers):.2f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.2f}{spread}"


def table(outcomes: Outcomes, columns: Mapping[str, Column] = COLUMNS) -> list[str]:
    """The lines of a Markdown table with a row for each label."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for label, ones in outcomes.items():
        cells = [cell([column(one) for one in ones]) for column in columns.values()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def origin(outcomes: Outcomes) -> str:
    """Seeds, commits, devices and dates of the runs behind a table."""
    ones = [one for row in outcomes.values() for one in row]
    circumstances = {
        name: ", ".join(sorted({str(one[name]) for one in ones}))
        for name in ("commit", "device", "precision", "threads", "torch")
    }
    seeds = sorted({one["experiment"]["seed"] if "experiment" in one else one["seed"] for one in ones})
    dates = sorted(one["measured_at"] for one in ones)
    about = "; ".join(f"{name} {value}" for name, value in circumstances.items())
    return f"Seeds {', '.join(map(str, seeds))}; {about}; measured {dates[0]} to {dates[-1]}."


def write(name: str, title: str, lines: Sequence[str], outcomes: Outcomes) -> str:
    """Write `name`.json and `name`.md in `benchmarks/results`. Returns the Markdown."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = "\n".join([f"# {title}", "", *lines, "", origin(outcomes), ""])
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(json.dumps(outcomes, indent=1) + "\n")
    return text
