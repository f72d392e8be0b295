"""How soon the deposited classes are known again: original, target, and a network trained on the preserved classes
alone, each fine-tuned on a few images of every class: `uv run python -m benchmarks.relearning --data cifar10`.
"""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import data as sources
from benchmarks import reports
from benchmarks.experiments import Experiment, carry_out, circumstances, original, progress, read_by_probe
from benchmarks.options import DataOption, DeviceOption, SplitOption, WidthOption
from lirf_core.compute import Compute
from lirf_core.evidence.relearning import STEPS, relearning_curve


def main(
    data: DataOption = "digits",
    split: SplitOption = "layer3",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    few: Annotated[list[int], typer.Option(help="Images of each class that the attacker has.")] = [10, 100],  # noqa: B006
    seed: int = 0,
) -> None:
    """Writes benchmarks/results/relearning-DATA.json and .md."""
    source = sources.load(data)
    # 14 epochs, as the trained network beside the benchmarks had.
    experiment = Experiment(data, split=split, width=width, original_epochs=14, seed=seed)
    compute, exact = Compute.for_training(device), Compute.for_inference(device)
    begun = circumstances(device) | {"experiment": asdict(experiment)}
    whole = original(source, experiment, compute)
    with progress("trained on the preserved classes alone"):
        alone = original(source, experiment, compute, source.preserved)
    with progress("deposit") as on_step:
        target = carry_out(experiment, source, whole, compute, on_step).target
    networks = {"original": whole, "target": target, "trained on the preserved classes alone": alone}
    asked = source.held_out.first_of_each(200)

    outcomes: dict[str, list[dict[str, Any]]] = {}
    for name, network in networks.items():
        probe = asdict(read_by_probe(source, network, exact)[1])
        curves = {}
        for count in few:
            shown = source.training.first_of_each(count)
            with progress(f"{name}: {count} images of each class") as on_step:
                curves[str(count)] = [
                    asdict(point)
                    for point in relearning_curve(
                        network,
                        (shown.pixels, shown.labels),
                        (asked.pixels, asked.labels),
                        source.deposited,
                        source.preprocessing,
                        source.augmentation,
                        compute,
                        seed=seed,
                    )
                ]
        outcomes[name] = [begun | {"probe": probe, "curves": curves}]

    columns: dict[str, reports.Column] = {"probe Dep": lambda one: one["probe"]["deposited"]}
    lines = [*reports.table(outcomes, columns), ""]
    for count in few:
        told = f"Deposited classes, percent right after so many steps on {count} images of each class:"
        at = {str(step): partial(_deposited, str(count), place) for place, step in enumerate(STEPS)}
        lines += [told, "", *reports.table(outcomes, at), ""]
    Console().print(reports.write(f"relearning-{source.name}", f"Relearning, {data}, {split}", lines, outcomes))


def _deposited(count: str, place: int, one: dict[str, Any]) -> float | None:
    found: float | None = one["curves"][count][place]["deposited"]
    return found


if __name__ == "__main__":
    typer.run(main)
