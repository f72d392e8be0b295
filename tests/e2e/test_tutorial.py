"""What the tutorial tells a stranger to type works, and in `make chaos`, which has the time, to the letter."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.doses import IS_LONG
from tests.e2e.commands import ROOT, Terminals, blocks

pytestmark = [pytest.mark.attack, pytest.mark.timeout(1800)]
TUTORIAL = ROOT / "docs" / "tutorial.md"
# Every command but those that wait for evidence (the README's walk has them), and fewer passes over the images.
SHORTER = {
    r"^(SIZE, MEAN, STD, EPOCHS = .*), 6$": r"\1, 3",
    r"(lirf deposit .*)$": r"\1 --epochs 1 --no-evidence",
    r"lirf (evidence|certificate) .*\n": "",
}


def as_long_as_there_is_time_for(script: str) -> str:
    for found, shorter in SHORTER.items() if not IS_LONG else ():
        script = re.sub(found, shorter, script, flags=re.MULTILINE)
    return script


def test_the_tutorial_works(tmp_path: Path) -> None:
    written = blocks(TUTORIAL)
    assert all(any(re.search(found, script, re.MULTILINE) for script in written) for found in SHORTER)
    installed, *scripts, cleaned, images_too = map(as_long_as_there_is_time_for, written)
    subprocess.run(["bash", "-ec", installed], cwd=ROOT, check=True)
    [number] = [number for number, script in enumerate(scripts) if "lirf up" in script]
    with Terminals(tmp_path) as terminals:
        before = terminals.run(scripts[:number])
        assert f"epoch {6 if IS_LONG else 3}, loss" in before
        terminals.serve(scripts[number])
        told = terminals.run([scripts[0], *scripts[number + 1 :]])
        certificate = tmp_path / "certificate.pdf"
        assert certificate.exists() == IS_LONG
        if IS_LONG:
            assert certificate.read_bytes().startswith(b"%PDF-")
        terminals.stop()
        terminals.run([cleaned, images_too])
    preserved, deposited = map(float, re.findall(r"target +preserved +(\S+) % +deposited +(\S+) %", told)[0])
    assert deposited < preserved
    if IS_LONG:
        assert deposited < 5 < 85 < preserved
        assert "NOT forgotten" not in told
        assert "relearnt after 20 and 80 steps, 10 images a class: NOT met" in told
        assert "linear probe: no reference to tell by" in told
        assert "certificate.pdf is genuine" in told
    assert {file.name for file in tmp_path.iterdir()} == {".venv", "up.log", "var"}
    assert not any((tmp_path / "var").iterdir())
    asked = re.findall(r"mine, revision 1[^\n]*\n.*\n.*probability.*\n.*\n│ (\S+) ", told)
    assert [answer == "0" for answer in asked] == [False, True, False]  # deposited, withdrawn, revoked
