"""Deposits with some preserved images at hand: `uv run python -m benchmarks.preserved --data digits`.

By how much do 10 or 50 training images of each preserved class improve a deposit, and its worst class?
"""

from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import data as sources
from benchmarks import reports
from benchmarks.data import Data
from benchmarks.experiments import Experiment, OnStep, progress, run_on, stored
from benchmarks.options import DataOption, DeviceOption, ImagesOption, SplitOption, WidthOption
from lirf_core.config import DepositConfig


@dataclass(frozen=True)
class AtHand:
    """Preserved training images of each class that the deposit may use."""

    each: int


def outcome(
    data: Data, experiment: Experiment, at_hand: AtHand, device: str, on_step: OnStep = lambda *_: None
) -> dict[str, Any]:
    """The stored result; if there is none, run the experiment."""
    if at_hand.each == 0:
        return stored(experiment, {}, device, lambda: run_on(data, experiment, device, on_step))
    images = data.training.of_classes(data.preserved).first_of_each(at_hand.each)
    return stored(experiment, {"at_hand": at_hand}, device, lambda: run_on(data, experiment, device, on_step, images))


def worst_fall(one: dict[str, Any]) -> float:
    """Points that the preserved class that lost most has lost."""
    before, after = one["original"]["by_class"], one["target"]["by_class"]
    deposited = sources.load(one["experiment"]["data"]).deposited
    return max(float(before[index] - after[index]) for index in range(len(deposited), len(before)))


COLUMNS: dict[str, reports.Column] = {
    "original Pre": lambda one: one["original"]["preserved"],
    "target Pre": lambda one: one["target"]["preserved"],
    "worst class lost": worst_fall,
    "target Dep": lambda one: one["target"]["deposited"],
    "recover Avg": lambda one: one["recover"]["average"],
    "probe Pre": lambda one: one["target"]["probe"]["preserved"],
    "probe Dep": lambda one: one["target"]["probe"]["deposited"],
    "seconds": lambda one: one["deposit_seconds"],
}


def main(
    data: DataOption = "digits",
    split: SplitOption = "layer2",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
    epochs: Annotated[int | None, typer.Option(help="Of each deposit. Default: the deposit's own.")] = None,
    proxies: Annotated[int, typer.Option(help="At most, in each deposit.")] = DepositConfig().proxies,
    seeds: Annotated[int, typer.Option(help="How many, from 0.")] = 3,
    each: Annotated[list[int] | None, typer.Option(help="Preserved images of each class. Default: 0, 10, 50.")] = None,
) -> None:
    """Write benchmarks/results/preserved-DATA.json and .md."""
    source = sources.load(data)
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for count in each or [0, 10, 50]:
        label = f"{count} of each class" if count else "none, as in the paper"
        for seed in range(seeds):
            config = DepositConfig(epochs=epochs, proxies=proxies)
            experiment = Experiment(data, config, split, width, images, seed=seed)
            with progress(f"{label}, seed {seed}") as on_step:
                outcomes.setdefault(label, []).append(outcome(source, experiment, AtHand(count), device, on_step))
    heading = "Percent correct of held-out images. Lost: points of the preserved class that lost most."
    lines = [heading, "", *reports.table(outcomes, COLUMNS)]
    title = f"Deposits with preserved images, {data}, {split}"
    Console().print(reports.write(f"preserved-{source.name}", title, lines, outcomes), markup=False)


if __name__ == "__main__":
    typer.run(main)
