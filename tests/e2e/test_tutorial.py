"""What the tutorial tells a stranger to type works as it stands there."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.commands import ROOT, Terminals, blocks

pytestmark = pytest.mark.timeout(900)
TUTORIAL = ROOT / "docs" / "tutorial.md"


def test_the_tutorial_works_as_it_stands(tmp_path: Path) -> None:
    installed, *scripts, cleaned, images_too = blocks(TUTORIAL)
    subprocess.run(["bash", "-ec", installed], cwd=ROOT, check=True)
    [number] = [number for number, script in enumerate(scripts) if "lirf up" in script]
    with Terminals(tmp_path) as terminals:
        before = terminals.run(scripts[:number])
        assert "epoch 6, loss" in before
        terminals.serve(scripts[number])
        told = terminals.run([scripts[0], *scripts[number + 1 :]])
        certificate = (tmp_path / "certificate.pdf").read_bytes()
        terminals.stop()
        terminals.run([cleaned, images_too])
    preserved, deposited = map(float, re.findall(r"target +preserved +(\S+) % +deposited +(\S+) %", told)[0])
    assert deposited < 5 < 85 < preserved
    assert "NOT forgotten" not in told
    assert "relearnt after 20 and 80 steps, 10 images a class: NOT met" in told
    assert "linear probe: no reference to tell by" in told
    assert "certificate.pdf is genuine" in told
    assert certificate.startswith(b"%PDF-")
    assert {file.name for file in tmp_path.iterdir()} == {".venv", "up.log", "var"}
    assert not any((tmp_path / "var").iterdir())
    asked = re.findall(r"mine, revision 1[^\n]*\n.*\n.*probability.*\n.*\n│ (\S+) ", told)
    assert [answer == "0" for answer in asked] == [False, True, False]  # deposited, withdrawn, revoked
