"""The progress bar of `lirf follow` always looks alive."""

import io
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress

from app.cli.deposits import _advance
from lirf_client import Deposit


def deposit(phase: str, step: int | None, steps: int | None) -> Deposit:
    progress: dict[str, Any] = {"phase": phase, "step": step, "steps": steps, "epoch": None, "losses": None}
    return cast(Deposit, {"state": "running", "progress": progress})


def test_a_phase_without_steps_shows_a_moving_bar_and_a_running_clock() -> None:
    with Progress(console=Console(file=io.StringIO())) as bar:
        task = bar.add_task("queued", total=None, text="")
        row = bar.tasks[task]
        _advance(bar, task, deposit("training", 10, 10))
        assert (row.completed, row.total) == (10, 10)
        _advance(bar, task, deposit("storing", None, None))
        assert (row.completed, row.total, row.finished) == (0, None, False)
        _advance(bar, task, deposit("evaluating", None, None))
        assert (row.description, row.total, row.finished) == ("measuring", None, False)
