"""The commands of the README and of the page on curl work as they are written there."""

import re
import shutil
from pathlib import Path

import pytest

from demo.digits import Digits, write_weights
from lirf_core.network import SplitNetwork
from tests.doses import IS_LONG
from tests.e2e.commands import ROOT, Terminals, blocks, shortened

pytestmark = pytest.mark.timeout(1800)
README, CURL = ROOT / "README.md", ROOT / "docs" / "how-to" / "curl.md"
# The README's model is large. In its place: the tests' narrow network and, unless there is time, a short deposit.
SMALLER = {
    "--architecture resnet50": "--architecture resnet18-small --width 0.25",
    "--size 224": "--size 16 --mean 0.3 --std 0.35",
    r"(lirf deposit birds .*)$": r"\1 --batch-size 64 --crop-padding 1 --no-flip",
}
SHORTER = {
    r"(lirf deposit birds .*)$": r"lirf policy birds --hardening none --reason short\n"
    r"\1 --batch-size 32 --epochs 6 --learning-rate 0.01 --proxies 100 --no-evidence",
    r"lirf (evidence|certificate) .*\n": "",
}
CURL_SHORTER = {r'"batch_size": 64': '"epochs": 6, "learning_rate": 0.01, "proxies": 100, "batch_size": 32'}


def shape(line: str) -> str:
    """What stays of an answer on every machine: not its figures, digits or keys."""
    return re.sub(r"\b[0-9a-f]{16}\b|\b[0-9a-f-]{36}\b|-?\d+(\.\d+)?(e-?\d+)?", "N", line)


def test_the_walk_with_curl_answers_as_its_page_says(tmp_path: Path, digits_network: SplitNetwork) -> None:
    service, *walk = blocks(CURL)
    if not IS_LONG:
        (folder := tmp_path / "var" / "digits").mkdir(parents=True)
        write_weights(folder / "digits.safetensors", digits_network)  # which spares half a minute of training
    install, up, data = service.strip().splitlines()
    assert install.startswith("make install")
    assert all(re.search(written, "\n".join(walk)) for written in CURL_SHORTER)
    with Terminals(tmp_path) as terminals:
        terminals.serve(up)
        output = terminals.run([data, shortened("\n".join(walk), CURL_SHORTER)]).splitlines()
    expected = [
        line[2:]
        for script in walk
        for line in script.splitlines()
        if re.match(r"# [{\[]|# certificate|# It certifies", line)
    ]
    assert [shape(line) for line in output] == [shape(line) for line in expected]


@pytest.mark.attack
def test_the_commands_of_the_readme_do_what_it_says(tmp_path: Path, digits_network: SplitNetwork) -> None:
    two_commands, service, ten_lines = blocks(README)
    assert {line.split("#")[0].strip() for line in two_commands.splitlines()} == {"make demo", "make test"}
    install, up = service.strip().splitlines()
    make, activate = install.split(" && ")
    assert make == "make install"
    assert len(ten_lines.splitlines()) == 10
    for written, other in SMALLER.items():
        assert re.search(written, ten_lines, re.MULTILINE)
        ten_lines = re.sub(written, other, ten_lines, flags=re.MULTILINE)
    assert all(re.search(written, ten_lines, re.MULTILINE) for written in SHORTER)
    ten_lines = shortened(ten_lines, SHORTER)

    digits = Digits()
    digits.write_folders(tmp_path / "forget", digits.of_classes(digits.training, [0, 1, 2]))
    digits.write_folders(tmp_path / "held-out", digits.held_out)
    write_weights(tmp_path / "weights.safetensors", digits_network)
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(10))))
    zero = digits.of_classes(digits.held_out, [0])[0]
    shutil.copy(tmp_path / "held-out" / "0" / f"{zero:04d}.png", tmp_path / "photo.jpg")
    with Terminals(tmp_path) as terminals:
        terminals.serve("\n".join([activate, up]))
        output = terminals.run([activate, ten_lines])
    answers = re.findall(r"birds, revision 1[^\n]*\n.*\n.*probability.*\n.*\n│ (\S+) ", output)
    assert [answer == "0" for answer in answers] == [False, True]  # deposited, withdrawn
    assert "Revoked: birds can no longer answer “0”, “1”, “2” through this withdrawal." in output
    assert ("certificate.pdf" in output) == IS_LONG
