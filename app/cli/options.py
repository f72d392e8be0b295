"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]
Url = Annotated[str, typer.Option("--url", envvar="LIRF_URL", help="Address of the service.")]
State = Annotated[Path, typer.Option("--state", envvar="LIRF_STATE_FOLDER", help="State folder of a service here.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; the audit keeps it.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_STATE = Path("var/lirf")
