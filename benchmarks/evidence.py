"""All evidence of one deposit, as a worker gathers it: `uv run python -m benchmarks.evidence --data cifar10`."""

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
        bool, typer.Option(help="Train a network on the preserved classes alone to compare with.")
    ] = True,
    seed: int = 0,
) -> None:
    """Writes benchmarks/results/evidence-DATA.json and .md."""
    source = sources.load(data)
    experiment = Experiment(data, split=split, width=width, images=images, original_epochs=14, seed=seed)
    compute, exact = Compute.for_training(device), Compute.for_inference(device)
    begun = circumstances(device) | {"experiment": asdict(experiment)}
    whole = original(source, experiment, compute)
    alone = None
    if reference:
        with progress("reference, trained on the preserved classes alone"):
            alone = original(source, experiment, compute, source.preserved)
    with progress("deposit") as on_deposit:
        result = carry_out(experiment, source, whole, compute, on_deposit)
    torch.manual_seed(seed)
    networks = Networks(result.target, build(source.narrow, split), whole, result.module, alone)
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

        def step(part: str) -> None:
            nonlocal steps
            steps += 1
            on_step(steps, 0)

        found = asdict(Examination(networks, case, compute, exact, step, seed).run())

    columns = figures.networks(found)
    lines = ["| | " + " | ".join([*columns, "good?"]) + " |", "|---" * (len(columns) + 2) + "|"]
    for row in figures.rows(found):
        cells = *(row.values.get(name, "") for name in columns), row.verdict or ""
        lines.append(f"| {row.measure} | " + " | ".join(cells) + " |")
    told = found["images"]
    lines += [
        "",
        f"{told['held_out']} held-out images, {told['attackers']} the attacker's, {told['asked']} asked about.",
    ]
    name = f"evidence-{source.name}" + (f"-{images}-images" if images else "")
    title = f"Evidence of one deposit, {data}, {split}"
    Console().print(reports.write(name, title, lines, {"deposit": [begun | {"found": found}]}), markup=False)


if __name__ == "__main__":
    typer.run(main)
