"""Options and arguments that several commands share."""

import math
from pathlib import Path
from typing import Annotated

import typer


def demand_finite(number: float | None) -> float | None:
    """For options: `nan` and `inf` are numbers to Python, but not to JSON."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"{number} is not a finite number.")
    return number


CONNECTION = "Connection"  # panel of the help pages

# An empty metavar: otherwise the help page shows a flag as `--json <bool>`.
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print the answer as JSON.")]
Yes = Annotated[bool, typer.Option("--yes", metavar="", help="Do not ask for confirmation.")]
Url = Annotated[
    str, typer.Option("--url", envvar="LIRF_URL", help="Address of the service.", rich_help_panel=CONNECTION)
]
State = Annotated[
    Path,
    typer.Option(
        "--state",
        envvar="LIRF_STATE_FOLDER",
        help="State folder with the API key of a local service.",
        rich_help_panel=CONNECTION,
    ),
]
LocalState = Annotated[
    Path, typer.Option("--state", envvar="LIRF_STATE_FOLDER", help="State folder of the service on this machine.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; recorded in the audit log.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
DepositId = Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of the deposit, from `lirf deposits MODEL`.")]
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_STATE = Path("var/lirf")
