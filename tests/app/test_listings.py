"""Tables of the command line fit the terminal, and no cell is cut."""

import re

import pytest
from rich.console import Console

from app.cli import output
from app.cli.models import ARCHITECTURES
from lirf_core.architectures import ARCHITECTURES as KNOWN

HEADERS = "id", "state", "by", "reason"
ROW = "01a2160e-5e37-7451-b66a-69bf65fe18ea", "deposited", "administrator", "the licence has ended"


def listed(monkeypatch: pytest.MonkeyPatch, width: int, is_terminal: bool = True) -> str:
    console = Console(width=width, force_terminal=is_terminal, color_system=None)
    monkeypatch.setattr(output, "out", console)
    with console.capture() as capture:
        console.print(output.table(HEADERS, [ROW], ("by", "reason")))
    return capture.get()


def test_a_wide_terminal_shows_everything_and_a_narrow_one_names_what_it_omits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = listed(monkeypatch, 120)
    assert all(value in wide for value in (*HEADERS, *ROW))
    assert "Left out" not in wide
    narrower = listed(monkeypatch, 90)
    assert "administrator" not in narrower
    assert all(value in narrower for value in (ROW[0], ROW[1], ROW[3], "Left out for want of width: by."))
    narrow = listed(monkeypatch, 60)
    assert all(value in narrow for value in ROW[:2])
    assert "by, reason" in narrow


def test_a_pipe_gets_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = re.sub(r"[^\w]", "", listed(monkeypatch, 60, is_terminal=False))
    assert "Leftout" not in piped
    assert len(piped) >= len(re.sub(r"[^\w]", "", "".join((*HEADERS, *ROW))))


def test_the_help_of_register_names_every_architecture() -> None:
    assert ARCHITECTURES.split(", ") == list(KNOWN)
