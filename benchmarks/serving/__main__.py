"""Our server beside LitServe, BentoML and the bare network; withdrawn deposits; cold withdrawals; 1,000 deposits."""

import base64
import json
import os
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx
import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from app.inference.views import Views
from benchmarks import reports
from benchmarks.experiments import circumstances
from benchmarks.serving.installation import SIDE, Installation, Server, class_name, free_port
from benchmarks.serving.load import Load, ask, middle
from lirf_core import artifacts
from lirf_core.architectures import ArchitectureSpec, build
from lirf_core.compute import Compute
from lirf_core.fuse import fuse_module, fuse_network
from lirf_core.network import freeze
from lirf_core.recover import RecoverNetwork

CLASSES = 100
CLIENTS = 1, 8, 64
WITHDRAWN = 1, 3, 10
TIMEOUTS = 0.0, 0.005  # of LitServe's batches; the better one counts
BENTOML_SETTINGS = {"CLASSES": str(CLASSES), "PYTHONPATH": "."}
BENTOML = "bentoml==1.4.40"  # its pins do not go with ours: uv gives it an environment of its own
IMAGE = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
MANY = 1000
NARROW = 0.25

err = Console(stderr=True)


def question(image: Tensor = IMAGE) -> tuple[bytes, dict[str, str]]:
    """One image as a binary tensor, answered with binary logits: body and headers."""
    raw = image.numpy().tobytes()
    given = {"name": "input", "shape": list(image.shape), "datatype": "FP32"}
    head = json.dumps(
        {
            "inputs": [{**given, "parameters": {"binary_data_size": len(raw)}}],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
    ).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}


class Asking:
    """Sends the question under load to our server or to LitServe."""

    def __init__(self, installation: Installation, seconds: int, rounds: int) -> None:
        self._headers = {"Authorization": f"Bearer {installation.key}"}
        self._seconds, self.rounds = seconds, rounds

    def ours(self, server: Server, model: str, clients: int) -> Load:
        body, headers = question()
        url = f"{server.url}/v2/models/{model}/infer"
        return ask(url, body, {**headers, **self._headers}, clients, self._seconds)

    def others(self, server: Server, clients: int, body: dict[str, Any]) -> Load:
        headers = {"Content-Type": "application/json"}
        return ask(f"{server.url}/predict", json.dumps(body).encode(), headers, clients, self._seconds)


def servers(installation: Installation, asking: Asking) -> dict[str, Any]:
    """Each server alone on the machine, in turn, and the bare network between them."""
    runs: dict[str, dict[int, list[Load]]] = {}
    bare: dict[int, list[float]] = {clients: [] for clients in CLIENTS}

    def note(name: str, one: Callable[[int], Load]) -> None:
        for clients in CLIENTS:
            one(clients)  # for warming up
            runs.setdefault(name, {}).setdefault(clients, []).append(one(clients))

    network, image = bare_network(), base64.b64encode(IMAGE.numpy().tobytes()).decode()
    for number in range(asking.rounds):
        err.print(f"servers, round {number + 1} of {asking.rounds}")
        with installation.served() as (server, _):
            note("ours", lambda clients: asking.ours(server, "wide", clients))
        for clients in CLIENTS:
            bare[clients].append(clients / seconds_of(network, clients))
        for timeout in TIMEOUTS:
            port = free_port()
            command = [
                sys.executable,
                "-m",
                "benchmarks.serving.litserve_server",
                str(port),
                str(CLASSES),
                str(timeout),
            ]
            with Server(command, port, "/health", installation.folder / "litserve.log") as server:
                note(
                    f"LitServe, batch_timeout {timeout}",
                    lambda clients: asking.others(server, clients, {"image": image}),
                )
        port = free_port()
        with Server(bentoml(port), port, "/readyz", installation.folder / "bentoml.log", **BENTOML_SETTINGS) as server:
            note("BentoML", lambda clients: asking.others(server, clients, {"images": [image]}))
    return {
        "servers": {
            name: {clients: asdict(middle(loads)) for clients, loads in of.items()} for name, of in runs.items()
        },
        "bare": {clients: median(rates) for clients, rates in bare.items()},
    }


def bentoml(port: int) -> list[str]:
    """The command that serves with it; `uv run` says where uv is."""
    needs = [BENTOML, *(f"{name}=={version(name)}" for name in ("torch", "torchvision"))]
    environment = ["--no-project", "--isolated", "--python", sys.executable, *(f"--with={need}" for need in needs)]
    serve = ["bentoml", "serve", "benchmarks.serving.bentoml_server:Classifier", "--port", str(port)]
    return [os.environ["UV"], "run", "--quiet", *environment, *serve]


def bare_network() -> nn.Module:
    """What the service runs, without the service."""
    torch.manual_seed(0)
    network = build(ArchitectureSpec("resnet18-small", classes=CLASSES))
    freeze(network)
    return fuse_network(Compute.for_inference("cpu").place(network), IMAGE)


@torch.inference_mode()
def seconds_of(network: nn.Module, batch: int, least: float = 2.0) -> float:
    """The median time of one pass over a batch."""
    images = torch.randn(batch, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    taken: list[float] = []
    end = time.perf_counter() + least
    network(images)
    while time.perf_counter() < end or len(taken) < 5:
        begin = time.perf_counter()
        network(images)
        taken.append(time.perf_counter() - begin)
    return median(taken)


def withdrawn(installation: Installation, rounds: int) -> dict[str, Any]:
    """The recover network against the target alone: time, and the multiply-adds that are its limit."""
    view = Views(installation.work.database).read("wide")
    vault, belonging = installation.work.vault, view.network.belonging
    target, modules = (
        view.network.open(vault),
        [artifacts.load_module(vault.read(module.stored), belonging) for module in view.modules],
    )
    place = Compute.for_inference("cpu").place
    light = fuse_network(place(deepcopy(target)), IMAGE)
    parts = [fuse_module(place(deepcopy(module)), IMAGE) for module in modules]
    found: dict[str, Any] = {}
    for count in WITHDRAWN:
        plain = RecoverNetwork(target, modules[:count], belonging.upper_digest, view.preserved_classes)
        with torch.no_grad(), FlopCounterMode(display=False) as of_recover:
            plain(IMAGE)
        with torch.no_grad(), FlopCounterMode(display=False) as of_target:
            target(IMAGE)
        recover = RecoverNetwork(light, parts[:count], belonging.upper_digest, view.preserved_classes)
        limit = of_recover.get_total_flops() / of_target.get_total_flops()
        for batch in CLIENTS:
            err.print(f"{count} withdrawn, batches of {batch}")
            ratios = [seconds_of(recover, batch) / seconds_of(light, batch) for _ in range(rounds)]
            found.setdefault(str(count), {"limit": limit})[str(batch)] = median(ratios)
    return found


def cold(installation: Installation, deposits: list[str]) -> list[dict[str, float]]:
    """Milliseconds from the request to withdraw to the first answer that shows the class, which nobody has opened."""
    found = []
    with installation.served() as (server, client):
        body, headers = question()
        headers["Authorization"] = f"Bearer {installation.key}"
        with httpx.Client(base_url=server.url, headers=headers) as asking:
            for number, deposit_id in enumerate(deposits):
                asking.post("/v2/models/wide/infer", content=body).raise_for_status()
                begin = time.perf_counter()
                withdrawal = client.withdraw([deposit_id], holder="benchmark", reason="benchmark")
                opened = time.perf_counter()
                answer = asking.post("/v2/models/wide/infer", content=body).raise_for_status()
                end = time.perf_counter()
                head = json.loads(answer.content[: int(answer.headers["Inference-Header-Content-Length"])])
                assert withdrawal["id"] in head["parameters"]["withdrawals"], class_name(number)
                client.revoke(withdrawal["id"])
                found.append({"withdraw": 1000 * (opened - begin), "answer": 1000 * (end - opened)})
    return found


def many(installation: Installation, asking: Asking) -> dict[str, Any]:
    """1,000 deposits of one model against one deposit of another: pages, withdrawals and answers."""
    with installation.served() as (server, client):
        for name, count in (("few", 1), ("many", MANY)):
            installation.register(client, name, MANY + 1, NARROW)
            for index in range(count):
                if index % 100 == 0:
                    err.print(f"deposit {index + 1} of {count}")
                installation.deposit(client, name, index)
    found: dict[str, Any] = {}
    with installation.served() as (server, client):
        headers = {"Authorization": f"Bearer {installation.key}"}
        for name in ("few", "many"):
            asking.ours(server, name, 1)  # a server that has just started still imports
        with httpx.Client(base_url=server.url, headers=headers) as reader:
            for name in ("few", "many"):
                found[f"page of {name}, ms"] = 1000 * median(timed(reader, f"/v1/models/{name}/deposits"))
                found[f"classes of {name}, ms"] = 1000 * median(timed(reader, f"/v1/models/{name}/classes"))
        for name in ("few", "many"):
            [one] = client._call("GET", f"/v1/models/{name}/deposits", params={"limit": 1})["items"]
            taken = []
            for _ in range(5):
                begin = time.perf_counter()
                withdrawal = client.withdraw([one["id"]], holder="benchmark", reason="benchmark")
                taken.append(time.perf_counter() - begin)
                client.revoke(withdrawal["id"])
            found[f"withdraw of {name}, ms"] = 1000 * median(taken)
            client.withdraw([one["id"]], holder="benchmark", reason="benchmark")
        for clients in CLIENTS:
            loads: dict[str, list[Load]] = {"few": [], "many": []}
            for _ in range(asking.rounds):
                for name, ones in loads.items():
                    ones.append(asking.ours(server, name, clients))
            for name, ones in loads.items():
                found[f"answers a second of {name}, {clients} clients"] = middle(ones).rate
    return found


def timed(client: httpx.Client, path: str, times: int = 20) -> list[float]:
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        client.get(path).raise_for_status()
        taken.append(time.perf_counter() - begin)
    return taken


def told(found: dict[str, Any]) -> list[str]:
    """Markdown of all that was found."""
    lines = ["| server | clients | answers a second | p50, ms | p99, ms |", "|---|---|---|---|---|"]
    for name, of in found["servers"].items():
        for clients, load in of.items():
            lines.append(f"| {name} | {clients} | {load['rate']:.0f} | {load['p50']:.1f} | {load['p99']:.1f} |")
    lines += [f"| bare network, batches | {size} | {rate:.0f} | | |" for size, rate in found["bare"].items()]
    ours = found["servers"]["ours"]
    for other in ("LitServe", "BentoML"):
        of_other = [of for name, of in found["servers"].items() if name.startswith(other)]
        lines += ["", f"| clients | ours / {other} | p99, ours / {other} |", "|---|---|---|"]
        for clients in CLIENTS:
            rate = ours[clients]["rate"] / max(of[clients]["rate"] for of in of_other)
            p99 = ours[clients]["p99"] / min(of[clients]["p99"] for of in of_other)
            lines.append(f"| {clients} | {rate:.2f} | {p99:.2f} |")
    lines += ["", "| clients | ours / bare network |", "|---|---|"]
    lines += [f"| {clients} | {ours[clients]['rate'] / found['bare'][clients]:.2f} |" for clients in CLIENTS]
    lines += ["", "| withdrawn | batch | time, recover / target | multiply-adds | time over that limit |"]
    lines.append("|---|---|---|---|---|")
    for count, of in found["withdrawn"].items():
        for batch in map(str, CLIENTS):
            ratio, limit = of[batch], of["limit"]
            lines.append(f"| {count} | {batch} | {ratio:.2f} | {limit:.2f} | {ratio / limit:.2f} |")
    totals = [one["withdraw"] + one["answer"] for one in found["cold"]]
    parts = {name: median(one[name] for one in found["cold"]) for name in ("withdraw", "answer")}
    lines += [
        "",
        (
            f"Cold withdrawal, {len(totals)} times: median {median(totals):.0f} ms ({min(totals):.0f} to "
            f"{max(totals):.0f}), of which the withdrawal {parts['withdraw']:.0f} and the answer {parts['answer']:.0f}."
        ),
        "",
        *(f"- {name}: {value:.1f}" for name, value in found["many"].items()),
    ]
    return lines


def main(
    seconds: Annotated[int, typer.Option(help="Of each run under load.")] = 6,
    rounds: Annotated[int, typer.Option(help="Of which the median counts.")] = 3,
) -> None:
    """Writes benchmarks/results/serving-cpu.json and .md."""
    with TemporaryDirectory() as folder:
        installation = Installation(Path(folder))
        asking = Asking(installation, seconds, rounds)
        with installation.served() as (_, client):
            installation.register(client, "wide", CLASSES, 1.0)
            deposits = [installation.deposit(client, "wide", index) for index in range(max(WITHDRAWN))]
        found = servers(installation, asking)
        found["cold"] = [one for _ in range(rounds) for one in cold(installation, deposits)]
        with installation.served() as (_, client):
            client.withdraw(deposits, holder="benchmark", reason="benchmark")
        found["withdrawn"] = withdrawn(installation, rounds)
        found["many"] = many(installation, asking)
    outcomes = {"serving": [found | circumstances("cpu") | {"seed": 0, "precision": "float32"}]}
    Console().print(reports.write("serving-cpu", "Serving, ResNet-18 on 32 x 32 images", told(found), outcomes))


if __name__ == "__main__":
    typer.run(main)
