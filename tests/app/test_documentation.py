"""The documentation names settings, problems, paths and functions that there are."""

import re
from pathlib import Path

import pytest

from app.base.settings import Settings
from docs import problems

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "docs" / "operations.md"
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / f"{n}.md" for n in ("README", "CONTRIBUTING", "SECURITY"))]
# `app/base/errors.py`, or `app/base/errors.py:Problem` for what is defined there.
_TREE = "app|worker|lirf_core|lirf_client|migrations|tests|benchmarks|demo|docs"
_PATH = re.compile(rf"`((?:{_TREE})/[\w./-]+)(?::([\w.]+))?`")


def test_every_setting_is_documented_and_no_other_is() -> None:
    lines = [line for line in OPERATIONS.read_text().splitlines() if line.startswith("| `LIRF_")]
    assert [line.split("`")[1] for line in lines] == [f"LIRF_{name.upper()}" for name in Settings.model_fields]
    for line, field in zip(lines, Settings.model_fields.values(), strict=True):
        assert not field.description or line.endswith(f"| {field.description} |")


def test_the_page_of_problems_is_that_of_the_code() -> None:
    assert problems.PAGE.read_text() == problems.page(), "run `make problems`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_path_and_name_of_a_page_exists(page: Path) -> None:
    for path, name in _PATH.findall(page.read_text()):
        assert (ROOT / path).exists(), path
        if name:
            own = name.rpartition(".")[2]  # a method may have its class before it
            defined = rf"^\s*(?:async def|def|class) {own}\b|^{own}\b.*="
            assert re.search(defined, (ROOT / path).read_text(), re.MULTILINE), f"{path}:{name}"
