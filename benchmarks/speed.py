"""Time of a deposit compared with the authors' published settings, in one run: `uv run python -m benchmarks.speed`.

Both deposit the same classes of the same original from the same images. The H mean of both stands next to the ratio,
because a faster deposit that forgets less is no gain.
"""

import time
from dataclasses import asdict, replace
from itertools import product
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import data as sources
from benchmarks import published, reports
from benchmarks.data import Data
from benchmarks.experiments import (
    Experiment,
    carry_out,
    circumstances,
    deposit_of,
    deposit_set,
    measure,
    original,
    progress,
)
from benchmarks.options import DataOption, DeviceOption, ImagesOption, WidthOption
from benchmarks.settings import OURS, SPLITS
from lirf_core.compute import Compute
from lirf_core.network import SplitNetwork

# Besides the default, a shorter deposit whose H can be compared with that of the published settings.
LENGTHS = {"in full": OURS, "one epoch": replace(OURS, epochs=1, proxies=1000)}


def operations(experiment: Experiment, source: Data, network: SplitNetwork, compute: Compute) -> int:
    """Floating-point operations of one step, forward and backward; a multiply-add counts as two.

    The difference between a deposit of two steps and one of a single step.
    """
    batch = experiment.deposit.batch_size
    totals: list[int] = []
    for steps in (1, 2):
        images = deposit_set(source, experiment).first(batch * steps)
        short = replace(experiment.deposit, epochs=1, proxies=experiment.deposit.proxy_batch)
        with FlopCounterMode(display=False) as counter:
            deposit_of(images, source, network, short, compute)
        totals.append(counter.get_total_flops())
    return totals[1] - totals[0]


def peak(compute: Compute, size: int = 2048, seconds: float = 2.0) -> float:
    """Operations per second of a matrix product in the precision of training: the most that the machine can do."""
    kind = compute.autocast_type or torch.float32
    left, right = (torch.randn(size, size, device=compute.device, dtype=kind) for _ in range(2))
    best = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        left @ right
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best


def main(
    data: DataOption = "cifar10",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
    workers: Annotated[int, typer.Option(help="Processes of the published settings' DataLoader.")] = 2,
) -> None:
    """Write benchmarks/results/speed-DATA-DEVICE.json and .md."""
    source = sources.load(data)
    compute, exact = Compute.for_training(device), Compute.for_inference(device)
    rows: dict[str, list[dict[str, Any]]] = {}

    experiment = Experiment(data, split=published.SPLIT, width=width, images=images)
    network = original(source, experiment, exact)
    deposit_images = deposit_set(source, experiment)
    with progress("as published") as on_step:
        begin = time.perf_counter()
        result = published.deposit_as_published(
            network,
            source,
            deposit_images.pixels,
            deposit_images.labels,
            exact.device,
            workers=workers,
            on_step=on_step,
        )
        seconds = time.perf_counter() - begin
    rows["as published"] = [measure(source, network, result, exact) | {"deposit_seconds": seconds}]

    rows["as published"][0]["experiment"] = asdict(experiment)
    per_epoch = -(-len(deposit_images) // OURS.batch_size)
    best = peak(compute)
    sentences = [f"A matrix product reaches {best / 1e9:.0f} GFLOP/s here.", ""]
    for split, (length, config) in product(SPLITS, LENGTHS.items()):
        ours = Experiment(data, config, split=split, width=width, images=images)
        network = original(source, ours, compute)
        label, steps = f"ours, {split}, {length}", per_epoch * config.epochs_for(per_epoch)
        with progress(label) as on_step:
            begin = time.perf_counter()
            result = carry_out(ours, source, network, compute, on_step)
            seconds = time.perf_counter() - begin
        measured = measure(source, network, result, exact)
        rows[label] = [measured | {"deposit_seconds": seconds, "experiment": asdict(ours)}]
        step = operations(ours, source, network, compute)
        rate = step * steps / seconds
        ratio = rows["as published"][0]["deposit_seconds"] / seconds
        sentences.append(
            f"- {label}: **{ratio:.1f} times** as fast as published. {steps} steps of {step / 1e9:.0f} GFLOP, "
            f"{rate / 1e9:.0f} GFLOP/s including all overhead: {100 * rate / best:.0f} % of a matrix product's."
        )

    for row in rows.values():
        row[0] |= circumstances(device)
    names = ("target Pre", "target Dep", "H", "recover Avg", "probe Dep", "seconds")
    lines = [
        *reports.table(rows, {name: reports.COLUMNS[name] for name in names}),
        "",
        *sentences,
    ]
    name = f"speed-{source.name}-{compute.device.type}"
    Console().print(reports.write(name, f"Seconds of a deposit, {source.name}", lines, rows))


if __name__ == "__main__":
    typer.run(main)
