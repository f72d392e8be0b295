"""Splits of networks that are no ResNets: `uv run python -m benchmarks.splits mobilenet_v2 features.10 features.13`.

The digits, enlarged to 32 by 32 pixels; a network trained from scratch; a deposit of 0, 1 and 2 after each split.
"""

import time
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console
from torch.nn import functional as F

from benchmarks import data as sources
from benchmarks import reports
from benchmarks.data import Data, Images
from benchmarks.experiments import (
    Experiment,
    OnStep,
    deposit_of,
    deposit_set,
    measure,
    original,
    progress,
    stored,
)
from benchmarks.options import DeviceOption
from lirf_core import artifacts
from lirf_core.architectures import ArchitectureSpec, default_split, has_image_size
from lirf_core.belonging import Belonging
from lirf_core.compute import Compute
from lirf_core.config import DepositConfig
from lirf_core.network import flat_state

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


def _run(data: Data, experiment: Experiment, device: str, on_step: OnStep) -> dict[str, Any]:
    compute = Compute.for_training(device)
    network = original(data, experiment, compute)
    begin = time.perf_counter()
    config = replace(experiment.deposit, seed=experiment.seed)
    result = deposit_of(deposit_set(data, experiment), data, network, config, compute, on_step)
    seconds = time.perf_counter() - begin
    belonging = Belonging(data.narrow, experiment.split, result.module.upper_digest)
    module_file = artifacts.dump_module(result.module, belonging)
    return {
        **measure(data, network, result, Compute.for_inference(device)),
        "deposit_seconds": round(seconds, 2),
        "module_bytes": len(module_file),
        "original_bytes": sum(tensor.nbytes for tensor in flat_state(network).values()),
    }


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
                run = stored(one, {}, device, lambda: _run(data, one, device, on_step))  # noqa: B023
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
