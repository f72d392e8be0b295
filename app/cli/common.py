"""What every command shares: its options, its client, and how it prints."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from lirf_client import AwaitingApproval, Client, Deposit, LirfError, Purge, Restoration, Withdrawal

out, err = Console(), Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]
Url = Annotated[str, typer.Option("--url", envvar="LIRF_URL", help="Address of the service.")]
State = Annotated[Path, typer.Option("--state", envvar="LIRF_STATE_FOLDER", help="State folder of a service here.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; the audit keeps it.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
WIDE = 10_000  # characters; what nothing has to be cut for
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


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], dispensable: Sequence[str] = ()) -> Table:
    """What is listed. On a terminal that is too narrow the dispensable columns go, first to last, and are named."""
    listed, shown = list(rows), list(headers)
    while True:
        made = Table(*(Column(name, overflow="fold") for name in shown))
        for row in listed:
            made.add_row(*(value for name, value in zip(headers, row, strict=True) if name in shown))
        fits = not out.is_terminal or Measurement.get(out, out.options.update_width(WIDE), made).maximum <= out.width
        left = [name for name in dispensable if name in shown]
        if fits or not left:
            break
        shown.remove(left[0])
    if gone := [name for name in headers if name not in shown]:
        made.caption = f"Left out for want of width: {', '.join(gone)}. A wider terminal, or --json, has all."
    return made


def cell(value: object) -> str:
    """Text of users is not markup."""
    return "" if value is None else escape(str(value))


def moment(told: str) -> str:
    """A time of the service's answers, to the second."""
    return told[:19].replace("T", " ")


def names(of: Deposit | Withdrawal | Restoration | Purge) -> str:
    """As a cell of a table has them."""
    return escape(", ".join(of["classes"]))


def quoted(of: Deposit | Withdrawal | Restoration | Purge) -> str:
    """As a sentence has them, where "0 of mine" would be a count."""
    return escape(", ".join(f"“{name}”" for name in of["classes"]))


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def fail(message: str) -> NoReturn:
    err.print(Text.assemble(("lirf: ", "bold red"), message), soft_wrap=True)
    raise typer.Exit(1)
