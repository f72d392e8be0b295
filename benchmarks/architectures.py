"""One deposit of each family of architectures, with the defaults: `uv run python -m benchmarks.architectures`.

The digits, enlarged to 32 by 32 pixels; networks trained from scratch; a deposit of 0, 1 and 2 after two splits each.
Name one architecture to see all that matters of it: `... architectures mobilenet_v2 --split features.10`.
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
NARROW = 0.25  # of a ResNet for small images; the full width takes an hour of one core for a deposit
EPOCHS, SLOW_EPOCHS = 30, 120  # the latter for batch norms whose statistics learn a tenth as fast (momentum 0.01)
FAMILIES: dict[str, tuple[str, ...]] = {  # the split before the default one, and that
    "resnet18-small": ("layer2", "layer3"),
    "vgg11_bn": ("features.14", "features.21"),
    "mobilenet_v2": ("features.10", "features.13"),
    "mobilenet_v3_small": ("features.6", "features.8"),
    "efficientnet_b0": ("features.4", "features.5"),
    "densenet121": ("transition1", "transition2"),
    "convnext_tiny": ("features.3", "features.4"),
    "vit_b_16": ("encoder_layer_2", "encoder_layer_3"),
}


def enlarged(architecture: str) -> Data:
    """The digits at `SIZE` by `SIZE` pixels, for this architecture."""
    data = sources.load("digits")
    size = {"image_size": SIZE} if has_image_size(architecture) else {}
    is_adaptive = architecture.startswith(("convnext", "vit", "mobilenet_v3", "vgg"))  # SGD does not train these
    width = NARROW if architecture.endswith("-small") else 1.0
    spec = ArchitectureSpec(architecture, classes=len(data.classes), width=width, channels=1, **size)

    def larger(images: Images) -> Images:
        pixels = F.interpolate(images.pixels.float(), size=(SIZE, SIZE), mode="bilinear")
        return Images(pixels.round().byte(), images.labels)

    return replace(
        data,
        name=f"digits{SIZE}-{architecture}{'-adamw' if is_adaptive else ''}",
        training=larger(data.training),
        held_out=larger(data.held_out),
        preprocessing=replace(data.preprocessing, height=SIZE, width=SIZE),
        narrow=spec,
        is_adaptive=is_adaptive,
    )


def main(
    architectures: Annotated[list[str] | None, typer.Argument(help="Default: one of each family.")] = None,
    splits: Annotated[list[str] | None, typer.Option("--split", help="Default: two of each.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of the original network's training. Default: 30 or 120.")] = None,
    seeds: Annotated[int, typer.Option(help="How many, from 0.")] = 1,
    device: DeviceOption = "auto",
) -> None:
    """Write benchmarks/results/architectures.json and .md, or architectures-NAME of named ones."""
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for architecture in architectures or FAMILIES:
        data = enlarged(architecture)
        for split in splits or FAMILIES.get(architecture, (default_split(architecture),)):
            label = f"{architecture}, {split}{' (default)' if split == default_split(architecture) else ''}"
            for seed in range(seeds):
                trained = epochs or (SLOW_EPOCHS if architecture.startswith("mobilenet_v3") else EPOCHS)
                one = Experiment(data.name, DepositConfig(), split, original_epochs=trained, seed=seed)
                with progress(f"{label}, seed {seed}") as on_step:
                    run = stored(one, {}, device, lambda: run_on(data, one, device, on_step))  # noqa: B023
                outcomes.setdefault(label, []).append(run)
    name = "-".join(["architectures", *(architectures or [])])
    title = f"One deposit of each architecture, digits at {SIZE} by {SIZE} pixels, default settings"
    Console().print(reports.write(name, title, _tables(outcomes), outcomes), markup=False)


def _tables(outcomes: dict[str, list[dict[str, Any]]]) -> list[str]:
    columns: dict[str, reports.Column] = {
        "original": lambda one: one["original"]["average"],
        "preserved, lost": lambda one: one["original"]["preserved"] - one["target"]["preserved"],
        "deposited, target": lambda one: one["target"]["deposited"],
        "average lost, recover": lambda one: one["original"]["average"] - one["recover"]["average"],
    }
    return [
        "Percent of held-out images, and points lost against the original. All figures of the same deposits:",
        "",
        *reports.table(outcomes, columns),
        "",
        *reports.table(outcomes),
    ]


if __name__ == "__main__":
    typer.run(main)
