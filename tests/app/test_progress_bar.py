"""The bar of `lirf follow`, which never looks as if nothing happened any more."""

import io
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress

from app.cli.deposits import _advance
from lirf_client import Deposit


def deposit(phase: str, step: int | None, steps: int | None) -> Deposit:
    progress: dict[str, Any] = {"phase": phase, "step": step, "steps": steps, "epoch": None, "losses": None}
    return cast(Deposit, {"state": "running", "progress": progress})


def test_a_phase_that_counts_nothing_is_no_full_bar_with_a_clock_that_stands_still() -> None:
    with Progress(console=Console(file=io.StringIO())) as bar:
        task = bar.add_task("queued", total=None, text="")
        shown = bar.tasks[task]
        _advance(bar, task, deposit("training", 10, 10))
        assert (shown.completed, shown.total) == (10, 10)
        _advance(bar, task, deposit("storing", None, None))
        assert (shown.completed, shown.total, shown.finished) == (0, None, False)
        _advance(bar, task, deposit("evaluating", None, None))
        assert (shown.description, shown.total, shown.finished) == ("measuring", None, False)
