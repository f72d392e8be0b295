"""The notebook of the documentation runs, and its figures are those that it has."""

import json
from pathlib import Path
from typing import Any

import pytest

from lirf_core.network import SplitNetwork
from tests.lirf_core.attackers import short_attacks

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "digits.ipynb"


def test_the_notebook_runs_and_was_executed(digits_network: SplitNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the original that all tests share, and a few steps of each attack that trains."""
    monkeypatch.setattr("demo.digits.train", lambda digits: digits_network)
    monkeypatch.setattr("lirf_core.evidence.reference.MOST_EPOCHS", 1)
    monkeypatch.setattr("lirf_core.evidence.reference.LEAST_STEPS", 1)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for output in cells[-1]["outputs"])
    names: dict[str, Any] = {}
    with short_attacks():
        for cell in cells:
            source = "".join(line for line in cell["source"] if not line.startswith("%"))
            exec(compile(source, str(NOTEBOOK), "exec"), names)
    answers = names["evidence"].answers
    assert answers["target"].deposited.percent < 5 < 95 < answers["target"].preserved.percent
    assert answers["recover"].deposited.percent > 95
