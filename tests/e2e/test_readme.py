"""What the README tells a stranger to type works as it stands there."""

import re
from pathlib import Path

import pytest

from tests.e2e.commands import ROOT, Terminals, blocks

pytestmark = pytest.mark.timeout(1800)
README = ROOT / "README.md"


def shape(line: str) -> str:
    """What stays of an answer on every machine: not its figures, digits or keys."""
    return re.sub(r"\b[0-9a-f]{16}\b|\b[0-9a-f-]{36}\b|-?\d+(\.\d+)?(e-?\d+)?", "N", line)


def test_the_walk_with_curl_answers_as_the_readme_says(tmp_path: Path) -> None:
    two_commands, service, walk = blocks(README)[:3]
    assert {line.split("#")[0].strip() for line in two_commands.splitlines()} == {"make demo", "make test"}
    install, up, data = service.strip().splitlines()
    assert install.startswith("make install")
    with Terminals(tmp_path) as terminals:
        terminals.serve(up)
        told = terminals.run([data, walk]).splitlines()
    promised = [line[2:] for line in walk.splitlines() if re.match(r"# [{\[]|# certificate|# It certifies", line)]
    assert [shape(line) for line in told] == [shape(line) for line in promised]
