"""Options that the benchmarks share."""

from typing import Annotated, Literal

import typer

DataOption = Annotated[
    str, typer.Option("--data", help="cifar10, digits, fashion-mnist, or a folder with train/CLASS and test/CLASS.")
]
PresetOption = Annotated[
    Literal["quick", "full"], typer.Option("--preset", help="full: three seeds and every row; quick: one seed.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
SplitOption = Annotated[str, typer.Option("--split", help="The last block of the lower part.")]
WidthOption = Annotated[
    float | None, typer.Option("--width", help="Width of resnet18-small; 1.0 is the paper's. Default: narrow.")
]
ImagesOption = Annotated[
    int | None, typer.Option("--images", help="Deposit images of each class; default: all there are.")
]
