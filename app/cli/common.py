"""What every command shares: its options, its client, and how it prints."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lirf_client import AwaitingApproval, Client, Deposit, LirfError, Purge, Restoration, Withdrawal

out, err = Console(), Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]
Url = Annotated[str, typer.Option("--url", envvar="LIRF_URL", help="Address of the service.")]
State = Annotated[Path, typer.Option("--state", envvar="LIRF_STATE_FOLDER", help="State folder of a service here.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; the audit keeps it.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_STATE = Path("var/lirf")


@contextmanager
def service(url: str, state: Path) -> Iterator[Client]:
    """A client; refusals and a missing service become one readable line and exit code 1."""
    file = state / "admin.key"
    is_here = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")  # this machine's key is not for others
    found = file.read_text().strip() if is_here and os.access(file, os.R_OK) else None
    key = os.environ.get("LIRF_API_KEY") or found
    try:
        with Client(url, key) as lirf:
            yield lirf
    except LirfError as error:
        fail(f"{error} ({error.type})")
    except AwaitingApproval as awaiting:  # nothing is done yet, which scripts must see
        err.print(Text.assemble(("lirf: ", "bold yellow"), str(awaiting)), soft_wrap=True)
        err.print(f"      lirf approvals approve {awaiting.approval['id']}", soft_wrap=True)
        raise typer.Exit(1) from None
    except httpx.TransportError as error:
        fail(f"no answer from {url} ({error}); start the service with `lirf up`, or give --url.")


def show(as_json: bool, answer: Any, text: str | Table) -> None:
    if as_json:
        out.print_json(json.dumps(answer))
    else:
        out.print(text)


def cell(value: object) -> str:
    """Text of users is not markup."""
    return "" if value is None else escape(str(value))


def moment(told: str) -> str:
    """A time of the service's answers, to the second."""
    return told[:19].replace("T", " ")


def names(of: Deposit | Withdrawal | Restoration | Purge) -> str:
    return escape(", ".join(of["classes"]))


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def fail(message: str) -> NoReturn:
    err.print(Text.assemble(("lirf: ", "bold red"), message), soft_wrap=True)
    raise typer.Exit(1)
