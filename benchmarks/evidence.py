"""All evidence of one deposit, as a worker collects it: `uv run python -m benchmarks.evidence --data cifar10`."""

from dataclasses import asdict
from typing import Annotated

import torch
import typer
from rich.console import Console

from app.evidence import figures
from benchmarks import data as sources
from benchmarks import reports
from benchmarks.experiments import Experiment, carry_out, circumstances, deposit_set, original, progress
from benchmarks.options import DataOption, DeviceOption, ImagesOption, SplitOption, WidthOption
from lirf_core.architectures import build
from lirf_core.compute import Compute
from lirf_core.evidence.examination import Case, Examination, Networks
from lirf_core.evidence.images import Labelled


def main(
    data: DataOption = "digits",
    split: SplitOption = "layer2",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
    reference: Annotated[
        bool, typer.Option(help="Train a network on the preserved classes only, for comparison.")
    ] = True,
    seed: int = 0,
) -> None:
    """Write benchmarks/results/evidence-DATA.json and .md."""
    source = sources.load(data)
    experiment = Experiment(data, split=split, width=width, images=images, original_epochs=14, seed=seed)
    compute, exact = Compute.for_training(device), Compute.for_inference(device)
    run = circumstances(device) | {"experiment": asdict(experiment)}
    network = original(source, experiment, compute)
    reference_network = None
    if reference:
        with progress("reference, trained on the preserved classes only"):
            reference_network = original(source, experiment, compute, source.preserved)
    with progress("deposit") as on_deposit:
        result = carry_out(experiment, source, network, compute, on_deposit)
    torch.manual_seed(seed)
    networks = Networks(result.target, build(source.narrow, split), network, result.module, reference_network)
    members = deposit_set(source, experiment)
    case = Case(
        source.classes,
        source.deposited,
        source.preserved,
        Labelled(source.held_out.pixels, source.held_out.labels),
        Labelled(members.pixels, members.labels),
        source.preprocessing,
        source.augmentation,
    )
    with progress("examination") as on_step:
        steps = 0

        def step(*_: str) -> None:
            nonlocal steps
            steps += 1
            on_step(steps, 0)

        results = asdict(Examination(networks, case, compute, exact, step, seed).run())

    columns = figures.networks(results)
    lines = ["| | " + " | ".join([*columns, "good?"]) + " |", "|---" * (len(columns) + 2) + "|"]
    for row in figures.rows(results):
        cells = *(row.values.get(name, "") for name in columns), row.verdict or ""
        lines.append(f"| {row.measure} | " + " | ".join(cells) + " |")
    counts = results["images"]
    lines += [
        "",
        f"{counts['held_out']} held-out images, {counts['attackers']} the attacker's, {counts['asked']} as questions.",
    ]
    name = f"evidence-{source.name}" + (f"-{images}-images" if images else "")
    title = f"Evidence of one deposit, {data}, {split}"
    Console().print(reports.write(name, title, lines, {"deposit": [run | {"found": results}]}), markup=False)


if __name__ == "__main__":
    typer.run(main)
