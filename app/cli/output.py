"""Print answers as JSON or text, tables that fit the terminal, and errors."""

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
UNLIMITED = 10_000  # characters; wider than any table

HasClasses = Deposit | Withdrawal | Restoration | Purge


def show(as_json: bool, answer: Any, text: str | Table) -> None:
    """Print the answer as JSON, or else the text."""
    if as_json:
        out.print_json(json.dumps(answer))
    else:
        out.print(text)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], optional: Sequence[str] = ()) -> Table:
    """Return a table; on a terminal that is too narrow, hide `optional` columns, first to last, and name them below."""
    rows, visible = list(rows), list(headers)
    while True:
        result = Table(*(Column(name, overflow="fold") for name in visible))
        for row in rows:
            result.add_row(*(value for name, value in zip(headers, row, strict=True) if name in visible))
        width = Measurement.get(out, out.options.update_width(UNLIMITED), result).maximum
        hideable = [name for name in optional if name in visible]
        if not out.is_terminal or width <= out.width or not hideable:
            break
        visible.remove(hideable[0])
    if hidden := [name for name in headers if name not in visible]:
        result.caption = f"Hidden columns: {', '.join(hidden)}. Widen the terminal or use --json to see them."
    return result


def cell(value: object) -> str:
    """Return the value as text. Rich must not read what users wrote as markup."""
    return "" if value is None else escape(str(value))


def moment(time: str) -> str:
    """Shorten a time of the service's answers to the second."""
    return time[:19].replace("T", " ")


def class_names(subject: HasClasses) -> str:
    """List the classes for a cell of a table."""
    return escape(", ".join(subject["classes"]))


def quoted_classes(subject: HasClasses) -> str:
    """List the classes for a sentence, in quotes: without them, "0 of mine" would read as a count."""
    return escape(", ".join(f"“{name}”" for name in subject["classes"]))


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def fail(message: str) -> NoReturn:
    """Print the message as an error and exit with code 1."""
    err.print(Text.assemble(("lirf: ", "bold red"), message), soft_wrap=True)
    raise typer.Exit(1)
