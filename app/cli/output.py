"""How commands print: answers as JSON or text, tables that fit the terminal, errors."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from lirf_client import Deposit, Purge, Restoration, Withdrawal

out, err = Console(), Console(stderr=True)
WIDE = 10_000  # characters; what nothing has to be cut for


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
