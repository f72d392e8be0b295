"""What the tests of the benchmarks share: a short deposit, and folders of their own."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import experiments, reports
from benchmarks.settings import OURS

SHORT = replace(OURS, epochs=1, proxies=16, proxy_batch=4)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reports, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(experiments, "ORIGINALS", tmp_path / "originals")
