"""Splits of networks that are no ResNets: `uv run python -m benchmarks.splits mobilenet_v2 features.10 features.13`.

The digits, enlarged to 32 by 32 pixels; a network trained from scratch; a deposit of 0, 1 and 2 after each split.
"""

from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console
from torch.nn import functional as F

from benchmarks import data as sources
from benchmarks import reports
from benchmarks.data import Data, Images
from benchmarks.experiments import Experiment, progress, run_on, stored
from benchmarks.options import DeviceOption
from lirf_core.architectures import ArchitectureSpec, default_split, has_image_size
from lirf_core.config import DepositConfig

SIZE = 32


def enlarged(architecture: str) -> Data:
    """The digits at `SIZE` by `SIZE` pixels, for this architecture."""
    data = sources.load("digits")
    size = {"image_size": SIZE} if has_image_size(architecture) else {}
    spec = ArchitectureSpec(architecture, classes=len(data.classes), channels=1, **size)

    def larger(images: Images) -> Images:
        pixels = F.interpolate(images.pixels.float(), size=(SIZE, SIZE), mode="bilinear")
        return Images(pixels.round().byte(), images.labels)

    return replace(
        data,
        name=f"digits{SIZE}-{architecture}",
        training=larger(data.training),
        held_out=larger(data.held_out),
        preprocessing=replace(data.preprocessing, height=SIZE, width=SIZE),
        narrow=spec,
    )


def main(
    architecture: str,
    splits: Annotated[list[str], typer.Argument(help="Splits of the architecture.")],
    epochs: Annotated[int, typer.Option(help="Of the original network's training.")] = 30,
    seeds: Annotated[int, typer.Option(help="How many, from 0.")] = 1,
    device: DeviceOption = "auto",
) -> None:
    """Write benchmarks/results/splits-ARCHITECTURE.json and .md."""
    data = enlarged(architecture)
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for split in splits:
        label = f"split after {split}{' (default)' if split == default_split(architecture) else ''}"
        for seed in range(seeds):
            one = Experiment(data.name, DepositConfig(), split, original_epochs=epochs, seed=seed)
            with progress(f"{label}, seed {seed}") as on_step:
                run = stored(one, {}, device, lambda: run_on(data, one, device, on_step))  # noqa: B023
            outcomes.setdefault(label, []).append(run)
    first = {"original": next(iter(outcomes.values()))}
    whole: dict[str, reports.Column] = {
        "Pre": lambda one: one["original"]["preserved"],
        "Dep": lambda one: one["original"]["deposited"],
    }
    lines = [*reports.table(first, whole), "", *reports.table(outcomes)]
    title = f"Splits of {architecture}, digits at {SIZE} by {SIZE} pixels"
    Console().print(reports.write(f"splits-{architecture}", title, lines, outcomes), markup=False)


if __name__ == "__main__":
    typer.run(main)
