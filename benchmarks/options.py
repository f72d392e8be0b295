"""Command-line options that the benchmarks share."""

from typing import Annotated, Literal

import typer

DataOption = Annotated[
    str,
    typer.Option(
        "--data", help="cifar10, digits, fashion-mnist, tiny-imagenet, or a folder with train/CLASS/ and test/CLASS/."
    ),
]
PresetOption = Annotated[
    Literal["quick", "full"],
    typer.Option("--preset", help="quick: one seed; full: three seeds, and more images for table3 and figure3."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
SplitOption = Annotated[str, typer.Option("--split", help="Last block of the lower part.")]
WidthOption = Annotated[
    float | None,
    typer.Option("--width", help="Width of resnet18-small; 1.0 as in the paper. Default: a narrow network."),
]
ImagesOption = Annotated[int | None, typer.Option("--images", help="Deposit images of each class. Default: all.")]
