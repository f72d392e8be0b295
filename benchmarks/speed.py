"""Seconds of a deposit against the authors' published settings, in one run: `uv run python -m benchmarks.speed`.

Both deposit the same classes of the same original from the same images; H mean of both stands beside the ratio,
because a fast deposit that forgets less is no gain.
"""

import time
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import authors, reports
from benchmarks import data as sources
from benchmarks.experiments import Experiment, carry_out, circumstances, deposit_set, measure, original, progress
from benchmarks.options import DataOption, DeviceOption, WidthOption
from benchmarks.settings import OURS
from lirf_core.compute import Compute


def main(
    data: DataOption = "cifar10",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: Annotated[int | None, typer.Option(help="Deposit images of each class; default: all.")] = None,
    workers: Annotated[int, typer.Option(help="Processes of the authors' DataLoader.")] = 2,
) -> None:
    """Writes benchmarks/results/speed-DATA-DEVICE.json and .md."""
    source = sources.load(data)
    compute, exact = Compute.for_training(device), Compute.for_inference(device)
    rows: dict[str, list[dict[str, Any]]] = {}

    published = Experiment(data, split=authors.SPLIT, width=width, images=images)
    network = original(source, published, exact)
    shown = deposit_set(source, published)
    with progress("as published") as on_step:
        begin = time.perf_counter()
        result = authors.deposit_as_published(
            network, source, shown.pixels, shown.labels, exact.device, workers=workers, on_step=on_step
        )
        seconds = time.perf_counter() - begin
    rows["as published"] = [measure(source, network, result, exact) | {"deposit_seconds": seconds}]

    ours = Experiment(data, OURS, width=width, images=images)
    network = original(source, ours, compute)
    with progress("ours") as on_step:
        begin = time.perf_counter()
        result = carry_out(ours, source, network, compute, on_step)
        seconds = time.perf_counter() - begin
    rows["ours"] = [measure(source, network, result, exact) | {"deposit_seconds": seconds}]

    for row in rows.values():
        row[0] |= circumstances(device)
    ratio = rows["as published"][0]["deposit_seconds"] / rows["ours"][0]["deposit_seconds"]
    names = ("target Pre", "target Dep", "H", "recover Avg", "probe Dep", "seconds")
    lines = [*reports.table(rows, {name: reports.COLUMNS[name] for name in names}), "", f"Ratio: **{ratio:.1f}**."]
    name = f"speed-{source.name}-{compute.device.type}"
    Console().print(reports.write(name, f"Seconds of a deposit, {source.name}", lines, rows))


if __name__ == "__main__":
    typer.run(main)
