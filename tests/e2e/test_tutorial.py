"""The tutorial's commands work: shortened in `make attacks`, to the letter in `make chaos`."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.doses import IS_LONG
from tests.e2e.commands import ROOT, Terminals, blocks, shortened

pytestmark = [pytest.mark.attack, pytest.mark.timeout(1800)]
TUTORIAL = ROOT / "docs" / "tutorial.md"
# Without the commands that wait for evidence (the walk with curl has them), and with fewer passes over the images.
SHORTER = {
    r"^(SIZE, MEAN, STD, EPOCHS = .*), 6$": r"\1, 3",
    # So few steps cost more than the default policy allows.
    r"(lirf deposit .*)$": r"lirf policy mine --max-preserved-loss 100 --max-module-loss 100 --max-total-loss 100 "
    r"--hardening none --reason short\n\1 --epochs 6 --learning-rate 0.01 --proxies 100 --no-evidence",
    r"lirf (evidence|certificate) .*\n": "",
}


def test_the_tutorial_works(tmp_path: Path) -> None:
    page = blocks(TUTORIAL)
    assert all(any(re.search(written, script, re.MULTILINE) for script in page) for written in SHORTER)
    installation, *scripts, cleaning, removal = (shortened(script, SHORTER) for script in page)
    subprocess.run(["bash", "-ec", installation], cwd=ROOT, check=True)
    [number] = [number for number, script in enumerate(scripts) if "lirf up" in script]
    with Terminals(tmp_path) as terminals:
        before = terminals.run(scripts[:number])
        assert f"epoch {6 if IS_LONG else 3}, loss" in before
        terminals.serve(scripts[number])
        output = terminals.run([scripts[0], *scripts[number + 1 :]])
        certificate = tmp_path / "certificate.pdf"
        assert certificate.exists() == IS_LONG
        if IS_LONG:
            assert certificate.read_bytes().startswith(b"%PDF-")
        terminals.stop()
        terminals.run([cleaning, removal])
    preserved, deposited = map(float, re.findall(r"target +preserved +(\S+) % +deposited +(\S+) %", output)[0])
    assert deposited < preserved
    if IS_LONG:
        assert deposited < 5 < 85 < preserved
        assert "NOT forgotten" not in output
        assert "read with 10 images a class, 80 steps: no reference to compare with" in output
        assert "certificate.pdf is genuine" in output
    assert {file.name for file in tmp_path.iterdir()} == {".venv", "up.log", "var"}
    assert not any((tmp_path / "var").iterdir())
    answers = re.findall(r"mine, revision 1[^\n]*\n.*\n.*probability.*\n.*\n│ (\S+) ", output)
    assert [answer == "0" for answer in answers] == [False, True, False]  # deposited, withdrawn, revoked
