"""Tables fit the terminal, and no value is cut. The help pages name what lirf_core has."""

import io
import re
import typing

import pytest
from rich.console import Console

from app.cli import output
from app.cli.deposits import create_deposit
from lirf_core.config import DepositConfig

HEADERS = "id", "state", "by", "reason"
ROW = "01a2160e-5e37-7451-b66a-69bf65fe18ea", "deposited", "administrator", "the licence has ended"


def listed(monkeypatch: pytest.MonkeyPatch, width: int, is_terminal: bool = True) -> str:
    console = Console(width=width, force_terminal=is_terminal, color_system=None)
    monkeypatch.setattr(output, "out", console)
    with console.capture() as capture:
        console.print(output.table(HEADERS, [ROW], ("by", "reason")))
    return capture.get()


def test_a_wide_terminal_shows_every_column_and_a_narrow_one_names_the_hidden_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = listed(monkeypatch, 120)
    assert all(value in wide for value in (*HEADERS, *ROW))
    assert "Hidden columns" not in wide
    narrower = listed(monkeypatch, 90)
    assert "administrator" not in narrower
    assert all(value in narrower for value in (ROW[0], ROW[1], ROW[3], "Hidden columns: by."))
    narrow = listed(monkeypatch, 60)
    assert all(value in narrow for value in ROW[:2])
    assert "by, reason" in narrow


def test_a_pipe_gets_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = re.sub(r"[^\w]", "", listed(monkeypatch, 60, is_terminal=False))
    assert "Hiddencolumns" not in piped
    assert len(piped) >= len(re.sub(r"[^\w]", "", "".join((*HEADERS, *ROW))))


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_no_table_breaks_an_id_and_none_is_wider_than_80_columns(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    headers = "id", "classes", "holder", "visibility", "state", "until", "reason", "deposit"
    row = ROW[0], "auk, " * 30, "the museum of birds", "held", "withdrawn", "2026-11-28 17:00:00", "r " * 90, ROW[0]
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "out", console)
    output.show(False, None, output.table(headers, [row, row], headers[2:]))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert sum(line.count(ROW[0]) for line in lines) >= 2
    assert max(map(len, lines)) <= max(width, 80)


def test_a_table_in_a_pipe_has_a_line_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    monkeypatch.setattr(output, "out", console)
    output.show(False, None, output.table(("id", "reason"), [(ROW[0], "the licence has ended " * 9)] * 2, ("reason",)))
    output.show(False, None, "word " * 90)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 3 + 2 + 1 + 1  # a frame, two rows, a frame, the text
    assert sum(ROW[0] in line and line.count("licence") == 9 for line in lines) == 2


def test_the_help_of_deposit_names_the_default_settings() -> None:
    hints = typing.get_type_hints(create_deposit, include_extras=True)
    defaults = {"batch_size": "128", "learning_rate": "0.02", "pruning_rate": "0"}
    for name, default in defaults.items():
        assert getattr(DepositConfig(), name) == float(default)
        assert hints[name].__metadata__[0].help.endswith(f"Default: {default}.")
