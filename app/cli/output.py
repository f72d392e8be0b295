"""Print answers as JSON or text, tables that fit the terminal, and errors."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from app.base.printable import printable
from lirf_client import Deposit, Purge, Restoration, Withdrawal

# No emoji codes: a class may be called `:dog:`.
out, err = Console(emoji=False), Console(stderr=True, emoji=False)
UNLIMITED = 10_000  # characters; wider than any table
ID_WIDTH, LEAST_WIDTH = 36, 6  # characters of an id, and of a column that can be broken
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|[0-9a-f]{16,}")

HasClasses = Deposit | Withdrawal | Restoration | Purge


def show(as_json: bool, answer: Any, text: str | Table) -> None:
    """Print the answer as JSON, or else the text. In a file or a pipe, no line is broken."""
    if as_json:
        out.print_json(json.dumps(answer))
    elif isinstance(text, Table):
        text.width = min(_width(text), max(out.width, _least_width(text)))
        out.print(text, crop=False)
    else:
        say(text)


def say(text: RenderableType) -> None:
    """Print the text. A terminal gets lines that break between words; a file or a pipe gets them whole."""
    out.print(text, soft_wrap=not out.is_terminal)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], optional: Sequence[str] = ()) -> Table:
    """Return a table; on a terminal that is too narrow, hide `optional` columns, first to last, and name them below.

    An id is never broken, because it is there to be copied.
    """
    rows, visible = list(rows), list(headers)
    with_ids = {name for name, *values in zip(headers, *rows, strict=True) if any(map(_ID.fullmatch, values))}
    while True:
        result = Table(*(Column(name, overflow="fold", no_wrap=name in with_ids) for name in visible))
        for row in rows:
            result.add_row(*(value for name, value in zip(headers, row, strict=True) if name in visible))
        hideable = [name for name in optional if name in visible]
        if not out.is_terminal or _width(result) <= out.width or not hideable:
            break
        visible.remove(hideable[0])
    if hidden := [name for name in headers if name not in visible]:
        result.caption = f"Hidden columns: {', '.join(hidden)}. Widen the terminal or use --json to see them."
    return result


def _width(table: Table) -> int:
    """The width of the table if no line of it is broken, in characters."""
    return Measurement.get(out, out.options.update_width(UNLIMITED), table).maximum


def _least_width(table: Table) -> int:
    """The width below which an id would be broken; in a file or a pipe, the whole width."""
    if not out.is_terminal:
        return _width(table)
    frames = 3 * len(table.columns) + 1
    return frames + sum(ID_WIDTH if column.no_wrap else LEAST_WIDTH for column in table.columns)


def plain(text: object) -> str:
    """What users wrote, for a text with markup: rich must not read it as markup, nor a terminal as commands."""
    return escape(printable(str(text), keep="\n"))


def cell(value: object) -> str:
    """Return the value as text for a cell."""
    return "" if value is None else plain(value)


def moment(time: str) -> str:
    """Shorten a time of the service's answers to the second."""
    return time[:19].replace("T", " ")


def class_names(subject: HasClasses) -> str:
    """List the classes for a cell of a table."""
    return plain(", ".join(subject["classes"]))


def quoted_classes(subject: HasClasses) -> str:
    """List the classes for a sentence, in quotes: without them, "0 of mine" would read as a count."""
    return plain(", ".join(f"“{name}”" for name in subject["classes"]))


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def backups_until(time: str | None) -> str:
    """Say how long backups contain the keys of what was destroyed."""
    if time:
        return f"Backups contain its keys until {moment(time)} UTC."
    return "Backups may still contain its keys, because LIRF_BACKUP_DAYS is not set."


def not_erased(still_in: Sequence[str], also_in: Sequence[str]) -> str:
    """Say what still has destroyed keys, if anything has."""
    message = f" Not erased yet: {plain(' '.join(still_in))} The reconciler goes on." if still_in else ""
    return message + (f" Copies of wrapped keys are also in: {plain(' '.join(also_in))}" if also_in else "")


def warn(message: str) -> None:
    """Print the message as a warning."""
    err.print(Text.assemble(("lirf: ", "bold yellow"), printable(message, keep="\n")), soft_wrap=True)


def fail(message: str) -> NoReturn:
    """Print the message as an error and exit with code 1."""
    err.print(Text.assemble(("lirf: ", "bold red"), printable(message, keep="\n")), soft_wrap=True)
    raise typer.Exit(1)


def typed_name(consequence: str) -> str:
    """Say what will be destroyed, and ask for the name of the model. consequence: markup."""
    err.print(consequence)
    return str(typer.prompt("To confirm, type the name of the model", err=True)).strip()


def accept_any_character() -> None:
    """Where the terminal's encoding lacks a character, print its number instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
