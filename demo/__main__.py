"""`make demo`: deposit and withdraw three classes of a digit classifier, and revoke the withdrawal, all over HTTP."""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.certificates.signatures import NotGenuine, verified
from app.cli.evidence import measures
from app.evidence import attack_figures, figures
from demo.digits import AUGMENTATION, CLASSES, PREPROCESSING, SPEC, Digits, train, write_weights
from lirf_client import Client, Deposit
from lirf_core import metrics

DEPOSITED = [0, 1, 2]
CONFIG = {
    "epochs": 10,
    "batch_size": 32,
    "learning_rate": 0.01,
    "proxies": 200,
    "augmentation": {"crop_padding": AUGMENTATION.crop_padding, "horizontal_flip": False},
}
REPORT = Path("var/demo/report.json")
CERTIFICATE = Path("var/demo/certificate.pdf")
out = Console()


@dataclass(frozen=True)
class Accuracy:
    """Percent of held-out images that are answered correctly."""

    by_class: list[float]
    preserved_accuracy: float
    deposited_accuracy: float
    average_accuracy: float

    def summary(self) -> dict[str, float]:
        return {name: getattr(self, f"{name}_accuracy") for name in ("preserved", "deposited", "average")}


def measure(lirf: Client, digits: Digits) -> Accuracy:
    """Send every held-out digit to the inference endpoint."""
    images = digits.images[digits.held_out]
    tensor = {
        "name": "input",
        "shape": [len(images), 1, PREPROCESSING.height, PREPROCESSING.width],
        "datatype": "UINT8",
        "data": images.reshape(-1).tolist(),
    }
    request = {"inputs": [tensor], "outputs": [{"name": "class"}]}
    answers = lirf.infer("digits", request)["outputs"][0]["data"]
    is_correct = [
        bool(answer == CLASSES[digits.labels[number]]) for answer, number in zip(answers, digits.held_out, strict=True)
    ]

    def percent(classes: list[int]) -> float:
        of_classes = [
            hit for hit, number in zip(is_correct, digits.held_out, strict=True) if digits.labels[number] in classes
        ]
        return round(100.0 * sum(of_classes) / len(of_classes), 2)

    all_digits = list(range(10))
    preserved = [digit for digit in all_digits if digit not in DEPOSITED]
    return Accuracy([percent([d]) for d in all_digits], percent(preserved), percent(DEPOSITED), percent(all_digits))


def target_of(deposit: Deposit) -> Accuracy:
    """The target as the deposit measured it, with the deposited rows put back: without them it could only be at 0 %."""
    assert deposit["metrics"]
    target = deposit["metrics"]["target"]
    percent = {name: value for name, value in target.items() if isinstance(value, float)}
    by_class = [round(target["by_class"][name] or 0.0, 2) for name in CLASSES]
    return Accuracy(by_class, **{name: round(value, 2) for name, value in percent.items()})


def show(title: str, before: Accuracy, after: Accuracy) -> None:
    table = Table("class", "before", "after", title=title)
    for digit, (old, new) in enumerate(zip(before.by_class, after.by_class, strict=True)):
        style = "bold" if digit in DEPOSITED else "dim"
        table.add_row(CLASSES[digit], f"{old:.1f} %", f"{new:.1f} %", style=style)
    for name in ("preserved", "deposited", "average"):
        table.add_row(name, f"{before.summary()[name]:.1f} %", f"{after.summary()[name]:.1f} %")
    out.print(table)


def walk(lirf: Client, folder: Path) -> dict[str, Any]:
    """Show every step and return the report."""
    out.rule("Register an original network")
    digits = Digits()
    with out.status("Training a small ResNet-18 on scikit-learn's digits ..."):
        weights = write_weights(folder / "digits.safetensors", train(digits))
    lirf.register_model(
        "digits",
        architecture={"name": SPEC.name, "width": SPEC.width},
        classes=CLASSES,
        preprocessing={"height": 16, "width": 16, "mean": list(PREPROCESSING.mean), "std": list(PREPROCESSING.std)},
    )
    lirf.put_weights("digits", weights)
    original = measure(lirf, digits)
    count = len(digits.held_out)
    out.print(f"Registered 'digits'. It reads {original.average_accuracy} % of {count} held-out digits correctly.")

    out.rule("Deposit 0, 1 and 2")
    lirf.upload_dataset("digits", digits.write_zip(folder / "evaluation.zip", digits.held_out), purpose="evaluation")
    images = digits.of_classes(digits.training, DEPOSITED)
    deposit_set = lirf.upload_dataset("digits", digits.write_zip(folder / "deposit.zip", images))
    out.print(f"Uploaded a deposit set of {len(images)} images, all of 0, 1 and 2.")
    requested = time.monotonic()
    reason = "licence for 0 to 2 lapsed"
    queued = lirf.request_deposit("digits", deposit_set["id"], reason=reason, config=CONFIG, evidence=False)
    deposit = follow(lirf, queued["id"])
    deposit_seconds = time.monotonic() - requested
    target = target_of(deposit)
    show("Original network -> target network, with the deposited rows put back", original, target)
    working = measure(lirf, digits)

    out.rule("Harden the target")
    served = harden(lirf, digits, working)

    out.rule("Withdraw")
    requested = time.monotonic()
    withdrawal = lirf.withdraw([deposit["id"]], holder="demo", reason="show it again", expires_in_seconds=3600)
    withdraw_seconds = time.monotonic() - requested
    recover = measure(lirf, digits)
    show("Served network -> recover network, as the service answers", served, recover)

    out.rule("Revoke")
    lirf.revoke(withdrawal["id"])
    revoked = measure(lirf, digits)
    show("Recover network -> after the revocation", recover, revoked)
    if revoked != served:
        raise SystemExit("The answers after the revocation are not those from before the withdrawal.")

    out.rule("Evidence")
    results = examine(lirf, deposit["id"], digits, folder)
    for line in measures(results):
        out.print(line)
    out.print(figures.RULES)
    show_relearning(results["attacks"])
    certify(lirf, deposit["id"])

    out.rule("Audit")
    table = Table("UTC", "actor", "action", "reason")
    for event in reversed(list(lirf.audit_events())):
        table.add_row(event["at"][11:19], event["actor"], event["action"], event["reason"] or "")
    out.print(table)

    forgotten = metrics.forgetting(original.deposited_accuracy, target.deposited_accuracy)
    return {
        **{
            name: {f"{part}_accuracy": value for part, value in accuracy.summary().items()}
            for name, accuracy in (("original", original), ("target", target), ("recover", recover))
        },
        "forgetting": round(forgotten, 2),
        "h_mean": round(metrics.h_mean(target.preserved_accuracy, forgotten), 2),
        "deposit_seconds": round(deposit_seconds, 2),
        "withdraw_seconds": round(withdraw_seconds, 3),
        "module_bytes": deposit["module_bytes"],
        "original_bytes": weights.stat().st_size,
    }


def harden(lirf: Client, digits: Digits, working: Accuracy) -> Accuracy:
    """Wait for the hardening that the deposit began. Returns what the service answers then."""
    begun = time.monotonic()
    with out.status("A worker distils the target anew, so that 0, 1 and 2 are not relearnt sooner than unseen ..."):
        *_, hardening = lirf.follow_hardening(lirf.hardenings("digits")[0]["id"])
    served = measure(lirf, digits)
    if hardening["is_served"]:
        out.print(
            f"After {time.monotonic() - begun:.0f} s the hardened network answers: {served.preserved_accuracy} % of "
            f"the preserved digits correctly, where the working target answers {working.preserved_accuracy} %."
        )
    else:
        out.print(f"The working target answers. {lirf.model('digits')['hardening']['why_not']}")
    return served


def examine(lirf: Client, deposit_id: str, digits: Digits, folder: Path) -> dict[str, Any]:
    """Have the target attacked beside a network that the worker trains on the other digits. Returns the results."""
    others = digits.of_classes(digits.training, [digit for digit in range(10) if digit not in DEPOSITED])
    images = lirf.upload_dataset("digits", digits.write_zip(folder / "reference.zip", others), purpose="reference")
    requested = lirf.request_evidence(deposit_id, train_reference_on=images["id"])
    with out.status("A worker trains a network that never saw 0, 1 and 2 ...") as status:
        for evidence in lirf.follow_evidence(requested["id"]):
            if (part := evidence["progress"]["part"]) != "reference":
                status.update(f"A worker attacks what is served, and that network ({part or evidence['state']}) ...")
    if evidence["found"] is None:
        raise SystemExit(f"The examination is {evidence['state']}: {evidence['failure']}")
    return evidence["found"]


def show_relearning(attacks: dict[str, Any]) -> None:
    """How soon the best attacker with a few labelled images of each class reads the deposited digits."""
    for images, by_network in attack_figures.curves(attacks).items():
        networks = {"served network": by_network["target"], "never saw them": by_network["reference"]}
        title = f"0, 1 and 2 relearnt from {images} images of each digit"
        table = Table("steps", *networks, title=title)
        for (step, ours), (_, theirs) in zip(*networks.values(), strict=True):
            table.add_row(str(step), f"{ours:.1f} %", f"{theirs:.1f} %")
        out.print(table)


def certify(lirf: Client, deposit_id: str) -> None:
    """Write the certificate; check that it is genuine and that a changed one is not."""
    certificate = lirf.certificate(lirf.evidence_of(deposit_id)[0]["id"])
    CERTIFICATE.parent.mkdir(parents=True, exist_ok=True)
    CERTIFICATE.write_bytes(certificate)
    key = load_pem_public_key(lirf.certificate_key().encode())
    assert isinstance(key, Ed25519PublicKey)
    verified(certificate, key)
    try:
        verified(certificate.replace(b"obj", b"obk", 1), key)
    except NotGenuine as reason:
        out.print(f"{CERTIFICATE} is a genuine certificate of deposit. After a change of one byte: {reason}")
    else:
        raise SystemExit("A changed certificate was accepted as genuine.")


def follow(lirf: Client, deposit_id: str) -> Deposit:
    with Progress(console=out) as bar:
        task = bar.add_task("queued", total=None)
        for deposit in lirf.follow(deposit_id):
            progress = deposit["progress"]
            name = progress["phase"] if deposit["state"] == "running" else deposit["state"]
            if progress["steps"]:
                bar.update(task, total=progress["steps"], completed=progress["step"])
            bar.update(task, description=name)
        bar.update(task, total=1, completed=1)
    if deposit["state"] != "deposited":
        raise SystemExit(f"The deposit is {deposit['state']}: {deposit['failure']}")
    return deposit


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="Stop after the report. By default, the service stays up.")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lirf-demo-"))
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIRF_")}
    command = [sys.executable, "-m", "app", "up", "--state", str(folder / "state"), "--port", str(port)]
    with (folder / "service.log").open("w") as log:
        service = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: S603
        try:
            lirf = connect(service, port, folder)
            report = walk(lirf, folder)
            REPORT.parent.mkdir(parents=True, exist_ok=True)
            REPORT.write_text(json.dumps(report, indent=2) + "\n")
            out.rule("Report")
            out.print_json(json.dumps(report))
            out.print(f"The report is in {REPORT}.")
            if not arguments.exit:
                stay(service, port, folder)
        finally:
            service.send_signal(signal.SIGINT)
            service.wait(30)
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def connect(service: "subprocess.Popen[bytes]", port: int, folder: Path) -> Client:
    with out.status("Starting `lirf up` ..."):
        while not (probe := Client(f"http://127.0.0.1:{port}")).is_ready():
            probe.close()
            if service.poll() is not None:
                raise SystemExit("The service did not start:\n" + (folder / "service.log").read_text())
            time.sleep(0.2)
    out.print(f"LIRF is up at http://127.0.0.1:{port}. Its state is in {folder}.")
    return Client(f"http://127.0.0.1:{port}", (folder / "state" / "admin.key").read_text().strip())


def stay(service: "subprocess.Popen[bytes]", port: int, folder: Path) -> None:
    out.print(f"\n[bold green]The service stays up at http://127.0.0.1:{port}[/bold green] (API reference: /docs).")
    out.print(
        f"  Console: http://127.0.0.1:{port}/console; its key is in {folder / 'state' / 'admin.key'}", soft_wrap=True
    )
    out.print(f"  export LIRF_URL=http://127.0.0.1:{port} LIRF_STATE_FOLDER={folder / 'state'}", soft_wrap=True)
    out.print("  .venv/bin/lirf classes digits        # or `lirf --help`. Ctrl-C here stops it and removes its state.")
    try:
        service.wait()
    except KeyboardInterrupt:
        out.print("Stopping.")


if __name__ == "__main__":
    sys.exit(main())
