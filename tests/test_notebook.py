"""The notebook of the documentation runs, and its figures are those that it has."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "digits.ipynb"


@pytest.mark.timeout(600)
def test_the_notebook_runs_and_was_executed() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for output in cells[-1]["outputs"])
    names: dict[str, Any] = {}
    for cell in cells:
        source = "".join(line for line in cell["source"] if not line.startswith("%"))
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    answers = names["evidence"].answers
    assert answers["target"].deposited.percent < 5 < 95 < answers["target"].preserved.percent
    assert answers["recover"].deposited.percent > 95
