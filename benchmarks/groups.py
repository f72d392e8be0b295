"""Classes deposited in one job, a group each: `uv run python -m benchmarks.groups --data digits`.

The yardstick is that of `benchmarks.sequence`, which deposits the same classes one after the other.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import data as sources
from benchmarks import reports
from benchmarks.data import Data
from benchmarks.experiments import Experiment, original, progress, stored
from benchmarks.options import DataOption, DeviceOption, ImagesOption, SplitOption, WidthOption
from benchmarks.sequence import KINDS, Deposited, Logits, leaks, show, tables
from benchmarks.settings import OURS
from lirf_core.compute import Compute
from lirf_core.deposit import deposit, scrub
from lirf_core.lesson import Lesson
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule
from lirf_core.training import Run


@dataclass(frozen=True)
class Plan:
    """The first `groups` classes are deposited together, each as a group."""

    groups: int = 5


def main(
    data: DataOption = "digits",
    split: SplitOption = "layer3",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
    groups: Annotated[int, typer.Option(help="How many of the first classes to deposit.")] = 5,
    seeds: Annotated[int, typer.Option(help="Jobs, each with its own seed.")] = 1,
) -> None:
    """Write benchmarks/results/groups-DATA-SPLIT.json and .md."""
    source, plan = sources.load(data), Plan(groups)
    ones = [
        outcome(source, Experiment(data, OURS, split, width, images, seed=seed), plan, device) for seed in range(seeds)
    ]
    name = f"groups-{source.name}-{split}" + (f"-{images}-images" if images else "")
    text = reports.write(name, f"Groups of one job, {data}, {split}", tables(ones, KINDS), {"groups": ones})
    Console().print(text, markup=False)


def outcome(source: Data, experiment: Experiment, plan: Plan, device: str) -> dict[str, Any]:
    """The figures of one job; stored."""

    def run() -> dict[str, Any]:
        compute, exact = Compute.for_training(device), Compute.for_inference(device)
        network = original(source, experiment, compute)
        made = carry_out(source, experiment, plan, network, compute)
        logits = Logits(source, network, made.targets, exact)
        return {
            "targets": logits.forgotten(plan.groups),
            "views": {kind: logits.views(modules) for kind, modules in made.modules.items()},
            "leaks": {kind: leaks(source, network, modules, exact) for kind, modules in made.modules.items()},
        }

    return stored(experiment, {"groups": plan}, device, run)


def carry_out(source: Data, experiment: Experiment, plan: Plan, network: SplitNetwork, compute: Compute) -> Deposited:
    """One deposit of all classes; then each class's module is scrubbed of the others."""
    run = Run(replace(experiment.deposit, augmentation=source.augmentation, seed=experiment.seed), compute)
    together = list(range(plan.groups))
    images = source.training.of_classes(together).first_of_each(experiment.images)
    preserved = list(range(plan.groups, len(source.classes)))
    lesson = Lesson(images.pixels, images.labels, together, preserved, source.preprocessing)
    with progress(f"seed {experiment.seed}: deposit") as on_step:
        result = deposit(network, lesson, replace(run, on_step=partial(show, on_step)))
    modules = [result.module.only([index]) for index in together]
    scrubbed: list[DepositModule] = []
    for module in modules:
        others = lesson.of_classes([index for index in together if index not in module.classes])
        with progress(f"seed {experiment.seed}: scrub of {source.classes[module.classes[0]]}'s module") as on_step:
            scrubbed.append(scrub(module, network.upper, others, replace(run, on_step=partial(show, on_step))))
    return Deposited(dict(zip(KINDS, (modules, scrubbed), strict=True)), [result.target])


if __name__ == "__main__":
    typer.run(main)
