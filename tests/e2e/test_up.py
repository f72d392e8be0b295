"""`lirf up` and every other command, as a person types them at a terminal."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.__main__ import free_port
from demo.digits import CLASSES, Digits, write_weights
from lirf_client import Client
from lirf_core.network import SplitNetwork
from tests.e2e.installation import until_training
from tests.e2e.processes import wait_until
from tests.e2e.terminal import Terminal, processes_of


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.fixture
def weights(tmp_path: Path, digits_network: SplitNetwork) -> Path:
    return write_weights(tmp_path / "digits.safetensors", digits_network)


@pytest.fixture(scope="module")
def open_terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A terminal whose service runs for several tests: starting one takes seconds."""
    terminal = Terminal(tmp_path_factory.mktemp("up"))
    with terminal.up():
        yield terminal


def register(terminal: Terminal, weights: Path, name: str = "digits") -> Any:
    """A model whose targets are not hardened: the walk with curl does that, and it takes longer than a deposit."""
    options = ["--architecture", "resnet18-small", "--width", "0.25", "--size", "16", "--mean", "0.3", "--std", "0.35"]
    registered = terminal.json("register", name, "--weights", str(weights), "--classes", ",".join(CLASSES), *options)
    terminal.run("policy", name, "--hardening", "none", "--reason", "takes long")
    return registered


def test_a_whole_day_at_the_terminal(open_terminal: Terminal, digits: Digits, weights: Path, tmp_path: Path) -> None:
    terminal = open_terminal
    assert "There are no models yet" in terminal.run("models")
    assert register(terminal, weights)["state"] == "ready"
    images = digits.write_zip(tmp_path / "deposit.zip", digits.of_classes(digits.training, [0, 1, 2]))
    held_out = digits.write_zip(tmp_path / "held-out.zip", digits.held_out)
    short = ["--no-evidence", "--epochs", "6", "--batch-size", "32", "--learning-rate", "0.01", "--proxies", "100"]
    as_digits = ["--crop-padding", "1", "--no-flip"]
    printed = terminal.run(
        *("deposit", "digits", str(images), "--evaluation", str(held_out), "--reason", "licence ended"),
        *short,
        *as_digits,
    )
    assert "is done: “0”, “1”, “2” of digits (revision 1" in printed
    assert "There is no evidence of this deposit yet" in terminal.run(
        "evidence", terminal.json("deposits", "digits")[0]["id"], code=1
    )
    before, after = (row for row in printed.splitlines() if row.strip().startswith(("original", "target")))
    assert "deposited" in before
    assert "deposited" in after

    classes = terminal.json("classes", "digits")
    assert [item["state"] for item in classes] == ["deposited"] * 3 + ["preserved"] * 7
    assert all(item["accuracy_before"] > 90 > 40 > item["accuracy_after"] for item in classes[:3])
    assert "licence ended" in terminal.run("classes", "digits")

    zero = tmp_path / "zero.png"
    from PIL import Image

    Image.fromarray(digits.images[digits.of_classes(digits.held_out, [0])[0]]).save(zero)
    assert "0" not in {item["class"] for item in terminal.json("predict", "digits", str(zero))["predictions"]}
    deposit_id = classes[0]["deposit_id"]
    withdrawal = terminal.json("withdraw", deposit_id, "--holder", "press", "--reason", "fair", "--hours", "1")
    assert terminal.json("predict", "digits", str(zero))["predictions"][0]["class"] == "0"
    assert "digits can no longer answer “0”, “1”, “2”" in terminal.run("revoke", withdrawal["id"])
    assert "0" not in {item["class"] for item in terminal.json("predict", "digits", str(zero))["predictions"]}

    held = terminal.json("withdraw", deposit_id, "--holder", "press", "--reason", "fair", "--held")
    token = terminal.json("token", held["id"])["token"]
    assert token.startswith(f"lirfw_{held['id']}_")
    presented = terminal.json("predict", "digits", str(zero), "--token", token)
    assert presented["predictions"][0]["class"] == "0"
    assert terminal.json("renew", held["id"], "--reason", "a day more", "--hours", "24")["expires_at"]
    assert "0" not in {item["class"] for item in terminal.json("predict", "digits", str(zero))["predictions"]}
    terminal.run("revoke", held["id"])
    assert [one["visibility"] for one in terminal.json("withdrawals", "--model", "digits")] == ["held", "public"]
    assert "revoked" in terminal.run("withdrawals")
    assert [one["id"] for one in terminal.json("deposits", "digits")] == [deposit_id]
    assert "deposited" in terminal.run("deposits", "digits")

    audit = terminal.json("audit", "list", "--model", "digits")
    assert audit[0]["action"] == "withdrawal.revoked"
    assert "was revoked at" in terminal.run("revoke", withdrawal["id"], code=1)
    assert len(terminal.json("audit", "list", "--limit", "3")) == 3
    assert "events are as they were written" in terminal.run(
        "audit", "anchor", str(tmp_path / "anchors")
    ) + terminal.run("audit", "verify", "--anchor", str(tmp_path / "anchors"))
    exported = terminal.run("audit", "export", "--model", "digits").splitlines()
    assert [json.loads(line)["action"] for line in exported][-1] == "withdrawal.revoked"

    old_version = terminal.json("vault", "rotate-key")["version"]
    assert terminal.json("vault", "rotate-key")["version"] != old_version
    assert "deposits that began before that may still need an old key" in terminal.run(
        "vault", "drop-old-keys", "--yes", code=1
    )
    assert terminal.json("vault", "check") == []
    assert terminal.json("vault", "gc") == []
    assert terminal.json("predict", "digits", str(zero))["revision"] == 1

    key = terminal.json("keys", "create", "reader")["key"]
    terminal.environment["LIRF_API_KEY"] = key
    try:
        assert "Missing role 'auditor'" in terminal.run("audit", "list", code=1)
    finally:
        del terminal.environment["LIRF_API_KEY"]


def test_classes_that_were_deposited_each_by_itself_are_made_anew(
    open_terminal: Terminal, digits: Digits, weights: Path, tmp_path: Path
) -> None:
    terminal = open_terminal
    register(terminal, weights, "apart")
    images = str(digits.write_zip(tmp_path / "deposit.zip", digits.of_classes(digits.training, [0, 1])))
    held_out = str(digits.write_zip(tmp_path / "held-out.zip", digits.held_out))
    short = ["--no-evidence", "--epochs", "6", "--batch-size", "32", "--learning-rate", "0.01", "--proxies", "100"]
    as_digits = ["--crop-padding", "1", "--no-flip"]
    arguments = "apart", images, "--each-class", "--evaluation", held_out, "--reason", "two licences"
    printed = terminal.run("deposit", *arguments, *short, *as_digits)
    assert "is done: “0” of apart" in printed
    assert "is done: “1” of apart" in printed
    one, zero = terminal.json("deposits", "apart")
    terminal.run("withdraw", one["id"], "--holder", "press", "--reason", "fair")

    config = {"epochs": 6, "batch_size": 32, "proxies": 100, "learning_rate": 0.01}
    config["augmentation"] = {"crop_padding": 1, "horizontal_flip": False}
    rebase = "rebase", "apart", "--images", images, "--reason", "try", "--config", json.dumps(config)
    printed = terminal.run(*rebase)
    assert "apart is rebased (revision 2)" in printed
    assert f"{one['id']}  “1”, deposited" in printed
    deposits = {deposit["id"]: deposit for deposit in terminal.json("deposits", "apart")}
    assert {deposit["module_revision"] for deposit in deposits.values()} == {2}
    for deposit in deposits.values():
        assert deposit["metrics"]["recover"]["deposited_accuracy"] > 90
        assert deposit["metrics"]["target"]["deposited_accuracy"] < 40
    answered = {item["name"]: item["state"] for item in terminal.json("classes", "apart")}
    assert (answered["0"], answered["1"]) == ("deposited", "withdrawn")
    terminal.run("purge", zero["id"], "--reason", "r", "--classes", "0")
    assert "the original network of model 'apart' was destroyed" in terminal.run(*rebase, code=1).lower()


def test_a_deposit_goes_on_after_the_service_was_stopped_and_killing_the_service_leaves_no_process(
    terminal: Terminal, digits: Digits, weights: Path, tmp_path: Path
) -> None:
    with terminal.up():
        register(terminal, weights)
        images = digits.write_zip(tmp_path / "deposit.zip", digits.of_classes(digits.training, [0])[:40])
        deposit = terminal.json("deposit", "digits", str(images), "--reason", "r", "--epochs", "20", "--no-wait")
        key = (terminal.folder / "state" / "admin.key").read_text().strip()
        with Client(terminal.environment["LIRF_URL"], key) as lirf:
            until_training(lirf, deposit["id"])
    assert processes_of(terminal.folder) == []
    with terminal.up() as process:
        assert "Another `lirf up` is using" in terminal.run("up", "--port", str(free_port()), code=1)
        ended = terminal.json("follow", deposit["id"])
        assert ended["state"] == "deposited"
        for part in ("-m worker ", "billiard", "worker.reconciler"):
            wait_until(lambda part=part: any(part in command for _, command in processes_of(terminal.folder)))
        process.kill()
        wait_until(lambda: processes_of(terminal.folder) == [], 30)


def test_a_folder_of_class_folders_is_as_good_as_a_zip_and_a_short_first_try_is_published(
    open_terminal: Terminal, digits: Digits, weights: Path, tmp_path: Path
) -> None:
    register(open_terminal, weights, "folders")
    zipped = digits.write_zip(tmp_path / "d.zip", digits.of_classes(digits.training, [7])[:8])
    zipfile.ZipFile(zipped).extractall(tmp_path / "folder")
    ended = open_terminal.json("deposit", "folders", str(tmp_path / "folder"), "--reason", "r", "--epochs", "1")
    assert (ended["state"], ended["classes"]) == ("deposited", ["7"])


def test_without_a_service_every_command_says_how_to_start_one(terminal: Terminal) -> None:
    assert "Start the service with `lirf up`" in terminal.run("models", code=1)


def test_every_command_has_help() -> None:
    import typer

    from app.cli import main

    group = typer.main.get_command(main)
    commands = dict(group.commands)  # type: ignore[attr-defined]
    for name in ("keys", "audit", "vault", "approvals", "certificate"):
        commands |= {f"{name} {own}": command for own, command in commands.pop(name).commands.items()}
    assert {"up", "register", "deposit", "withdraw", "revoke", "classes", "audit verify", "predict"} <= commands.keys()
    for name, command in commands.items():
        assert command.help, name
        assert all(getattr(option, "help", None) for option in command.params), name
        if name not in ("up", "serve", "migrate", "audit export") and not name.startswith("certificate "):
            assert "--json" in [o for p in command.params for o in p.opts], name


def test_a_registration_with_wrong_weights_leaves_no_model(open_terminal: Terminal, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"PK\x03\x04 torch")
    options = ["--weights", str(wrong), "--classes", "a,b", "--architecture", "resnet18", "--size", "32"]
    assert "Save the state dict with safetensors" in open_terminal.run("register", "wrong", *options, code=1)
    assert "wrong" not in {model["name"] for model in open_terminal.json("models")}


def test_a_refused_deposit_leaves_no_data_set(
    open_terminal: Terminal, digits: Digits, weights: Path, tmp_path: Path
) -> None:
    register(open_terminal, weights, "refusals")
    everything = digits.write_zip(tmp_path / "all.zip", digits.held_out[:100])
    printed = open_terminal.run("deposit", "refusals", str(everything), "--reason", "[/b] all of it", code=1)
    assert "would have no class left" in printed
    assert "dataset.shredded" in open_terminal.run("audit", "list", "--model", "refusals")
