"""The paper's tables and figures: `uv run python -m benchmarks.paper table1 --data cifar10 --preset quick`.

Every row is an `Experiment`; a row that was run before is read from `benchmarks/results/runs`.
"""

from dataclasses import replace
from typing import Annotated, Literal

import typer
from rich.console import Console

from benchmarks import figures, reports
from benchmarks.data import NoSuchData
from benchmarks.experiments import Experiment, run_all
from benchmarks.settings import OURS, PAPER
from benchmarks.transfer import transfer

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
console = Console()

DataOption = Annotated[
    str, typer.Option("--data", help="cifar10, digits, fashion-mnist, or a folder with train/CLASS and test/CLASS.")
]
PresetOption = Annotated[
    Literal["quick", "full"], typer.Option("--preset", help="full: all images and three seeds; quick: one seed.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
WidthOption = Annotated[
    float | None, typer.Option("--width", help="Width of resnet18-small; 1.0 is the paper's. Default: narrow.")
]


class Preset:
    """What a preset means: seeds, and deposit images of each class (None: all)."""

    def __init__(self, name: str, data: str, width: float | None) -> None:
        self.name, self.data, self.width = name, data, width
        self.seeds = [0, 1, 2] if name == "full" else [0]

    def experiments(self, **changes: object) -> list[Experiment]:
        base = replace(OURS, data=self.data, width=self.width)
        return [replace(base, seed=seed, **changes) for seed in self.seeds]  # type: ignore[arg-type]
