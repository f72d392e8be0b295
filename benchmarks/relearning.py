"""How soon a network knows the deposited classes again: `uv run python -m benchmarks.relearning --data cifar10`.

Original, target and a network trained on the preserved classes only are fine-tuned on a few images of every class.
"""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import data as sources
from benchmarks import reports
from benchmarks.experiments import Experiment, carry_out, circumstances, network_and_probe_accuracy, original, progress
from benchmarks.options import DataOption, DeviceOption, SplitOption, WidthOption
from lirf_core.compute import Compute
from lirf_core.evidence.relearning import STEPS, relearning_curve


def main(
    data: DataOption = "digits",
    split: SplitOption = "layer3",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    few: Annotated[list[int], typer.Option(help="Images of each class for the attacker.")] = [10, 100],  # noqa: B006
    seed: int = 0,
) -> None:
    """Write benchmarks/results/relearning-DATA.json and .md."""
    source = sources.load(data)
    # 14 epochs, like the trained network in `shared`.
    experiment = Experiment(data, split=split, width=width, original_epochs=14, seed=seed)
    compute, exact = Compute.for_training(device), Compute.for_inference(device)
    run = circumstances(device) | {"experiment": asdict(experiment)}
    network = original(source, experiment, compute)
    with progress("trained on the preserved classes alone"):
        reference = original(source, experiment, compute, source.preserved)
    with progress("deposit") as on_step:
        target = carry_out(experiment, source, network, compute, on_step).target
    networks = {"original": network, "target": target, "trained on the preserved classes alone": reference}
    held_out = source.held_out.first_of_each(200)

    outcomes: dict[str, list[dict[str, Any]]] = {}
    for name, network in networks.items():
        probe = asdict(network_and_probe_accuracy(source, network, exact, source.deposited)[1])
        curves = {}
        for count in few:
            images = source.training.first_of_each(count)
            with progress(f"{name}: {count} images of each class") as on_step:
                curves[str(count)] = [
                    asdict(point)
                    for point in relearning_curve(
                        network,
                        (images.pixels, images.labels),
                        (held_out.pixels, held_out.labels),
                        source.deposited,
                        source.preprocessing,
                        source.augmentation,
                        compute,
                        seed=seed,
                    )
                ]
        outcomes[name] = [run | {"probe": probe, "curves": curves}]

    columns: dict[str, reports.Column] = {"probe Dep": lambda one: one["probe"]["deposited"]}
    lines = [*reports.table(outcomes, columns), ""]
    for count in few:
        heading = f"Deposited classes, percent correct by number of steps on {count} images of each class:"
        by_step = {str(step): partial(_deposited, str(count), place) for place, step in enumerate(STEPS)}
        lines += [heading, "", *reports.table(outcomes, by_step), ""]
    Console().print(reports.write(f"relearning-{source.name}", f"Relearning, {data}, {split}", lines, outcomes))


def _deposited(count: str, place: int, one: dict[str, Any]) -> float | None:
    accuracy: float | None = one["curves"][count][place]["deposited"]
    return accuracy


if __name__ == "__main__":
    typer.run(main)
