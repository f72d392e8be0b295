"""Our server compared with LitServe, BentoML and the bare network; withdrawals, cold withdrawals, 1,000 deposits."""

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
from benchmarks.serving.load import Load, median_load, send
from lirf_core import artifacts
from lirf_core.architectures import ArchitectureSpec, build
from lirf_core.compute import Compute
from lirf_core.fuse import fuse_module, fuse_network
from lirf_core.network import freeze
from lirf_core.recover import RecoverNetwork

CLASSES = 100
CLIENTS = 1, 8, 64
WITHDRAWN = 1, 3, 10
TIMEOUTS = 0.0, 0.005  # of LitServe's batches, in seconds; the better one counts
BENTOML_SETTINGS = {"CLASSES": str(CLASSES), "PYTHONPATH": "."}
BENTOML = "bentoml==1.4.40"  # its pinned dependencies conflict with ours, so uv gives it a separate environment
IMAGE = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
MANY = 1000
NARROW = 0.25

err = Console(stderr=True)


def inference_request(image: Tensor = IMAGE) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request that sends one image as a binary tensor and asks for binary logits."""
    raw = image.numpy().tobytes()
    tensor = {"name": "input", "shape": list(image.shape), "datatype": "FP32"}
    head = json.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
    ).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}


class LoadGenerator:
    """Sends the same request under load, to our server or another."""

    def __init__(self, installation: Installation, seconds: int, rounds: int) -> None:
        self._headers = {"Authorization": f"Bearer {installation.key}"}
        self._seconds, self.rounds = seconds, rounds

    def ours(self, server: Server, model: str, clients: int) -> Load:
        body, headers = inference_request()
        url = f"{server.url}/v2/models/{model}/infer"
        return send(url, body, {**headers, **self._headers}, clients, self._seconds)

    def others(self, server: Server, clients: int, body: dict[str, Any]) -> Load:
        headers = {"Content-Type": "application/json"}
        return send(f"{server.url}/predict", json.dumps(body).encode(), headers, clients, self._seconds)


def servers(installation: Installation, generator: LoadGenerator) -> dict[str, Any]:
    """Load of each server in turn, alone on the machine, and of the bare network in between."""
    runs: dict[str, dict[int, list[Load]]] = {}
    bare: dict[int, list[float]] = {clients: [] for clients in CLIENTS}

    def measure(name: str, run: Callable[[int], Load]) -> None:
        for clients in CLIENTS:
            run(clients)  # warm-up
            runs.setdefault(name, {}).setdefault(clients, []).append(run(clients))

    network, image = bare_network(), base64.b64encode(IMAGE.numpy().tobytes()).decode()
    for number in range(generator.rounds):
        err.print(f"servers, round {number + 1} of {generator.rounds}")
        with installation.served() as (server, _):
            measure("ours", lambda clients: generator.ours(server, "wide", clients))
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
                measure(
                    f"LitServe, batch_timeout {timeout}",
                    lambda clients: generator.others(server, clients, {"image": image}),
                )
        port = free_port()
        with Server(bentoml(port), port, "/readyz", installation.folder / "bentoml.log", **BENTOML_SETTINGS) as server:
            measure("BentoML", lambda clients: generator.others(server, clients, {"images": [image]}))
    return {
        "servers": {
            name: {clients: asdict(median_load(loads)) for clients, loads in by_clients.items()}
            for name, by_clients in runs.items()
        },
        "bare": {clients: median(rates) for clients, rates in bare.items()},
    }


def bentoml(port: int) -> list[str]:
    """The command that serves with BentoML; `uv run` sets the variable that says where uv is."""
    requirements = [BENTOML, *(f"{name}=={version(name)}" for name in ("torch", "torchvision"))]
    environment = [
        "--no-project",
        "--isolated",
        "--python",
        sys.executable,
        *(f"--with={requirement}" for requirement in requirements),
    ]
    serve = ["bentoml", "serve", "benchmarks.serving.bentoml_server:Classifier", "--port", str(port)]
    return [os.environ["UV"], "run", "--quiet", *environment, *serve]


def bare_network() -> nn.Module:
    """The network that the service runs, without the service."""
    torch.manual_seed(0)
    network = build(ArchitectureSpec("resnet18-small", classes=CLASSES))
    freeze(network)
    return fuse_network(Compute.for_inference("cpu").place(network), IMAGE)


@torch.inference_mode()
def seconds_of(network: nn.Module, batch: int, at_least: float = 2.0) -> float:
    """The median time of one pass over a batch, measured for at least `at_least` seconds."""
    images = torch.randn(batch, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    times: list[float] = []
    end = time.perf_counter() + at_least
    network(images)
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        network(images)
        times.append(time.perf_counter() - begin)
    return median(times)


def withdrawn(installation: Installation, rounds: int) -> dict[str, Any]:
    """Time and multiply-adds of the recover network, relative to the target alone. The multiply-adds are the limit."""
    view = Views(installation.work.database).read("wide")
    vault, belonging = installation.work.vault, view.network.belonging
    target, modules = (
        view.network.open(vault),
        [artifacts.load_module(vault.read(module.stored), belonging) for module in view.modules],
    )
    place = Compute.for_inference("cpu").place
    fused_target = fuse_network(place(deepcopy(target)), IMAGE)
    fused_modules = [fuse_module(place(deepcopy(module)), IMAGE) for module in modules]
    results: dict[str, Any] = {}
    for count in WITHDRAWN:
        plain = RecoverNetwork(target, modules[:count], belonging.upper_digest, view.preserved_classes)
        with torch.no_grad(), FlopCounterMode(display=False) as of_recover:
            plain(IMAGE)
        with torch.no_grad(), FlopCounterMode(display=False) as of_target:
            target(IMAGE)
        recover = RecoverNetwork(fused_target, fused_modules[:count], belonging.upper_digest, view.preserved_classes)
        limit = of_recover.get_total_flops() / of_target.get_total_flops()
        for batch in CLIENTS:
            err.print(f"{count} withdrawn, batches of {batch}")
            ratios = [seconds_of(recover, batch) / seconds_of(fused_target, batch) for _ in range(rounds)]
            results.setdefault(str(count), {"limit": limit})[str(batch)] = median(ratios)
    return results


def cold(installation: Installation, deposits: list[str]) -> list[dict[str, float]]:
    """Milliseconds from the request to withdraw to the first answer, for deposits that nobody has withdrawn before."""
    times = []
    with installation.served() as (server, client):
        body, headers = inference_request()
        headers["Authorization"] = f"Bearer {installation.key}"
        with httpx.Client(base_url=server.url, headers=headers) as http:
            for number, deposit_id in enumerate(deposits):
                http.post("/v2/models/wide/infer", content=body).raise_for_status()
                begin = time.perf_counter()
                withdrawal = client.withdraw([deposit_id], holder="benchmark", reason="benchmark")
                opened = time.perf_counter()
                answer = http.post("/v2/models/wide/infer", content=body).raise_for_status()
                end = time.perf_counter()
                head = json.loads(answer.content[: int(answer.headers["Inference-Header-Content-Length"])])
                assert withdrawal["id"] in head["parameters"]["withdrawals"], class_name(number)
                client.revoke(withdrawal["id"])
                times.append({"withdraw": 1000 * (opened - begin), "answer": 1000 * (end - opened)})
    return times


def many(installation: Installation, generator: LoadGenerator) -> dict[str, Any]:
    """A model of 1,000 deposits compared with a model of one: pages, withdrawals and answers."""
    with installation.served() as (server, client):
        for name, count in (("few", 1), ("many", MANY)):
            installation.register(client, name, MANY + 1, NARROW)
            for index in range(count):
                if index % 100 == 0:
                    err.print(f"deposit {index + 1} of {count}")
                installation.deposit(client, name, index)
    results: dict[str, Any] = {}
    with installation.served() as (server, client):
        headers = {"Authorization": f"Bearer {installation.key}"}
        for name in ("few", "many"):
            generator.ours(server, name, 1)  # a server that has just started is still importing
        with httpx.Client(base_url=server.url, headers=headers) as reader:
            for name in ("few", "many"):
                results[f"page of {name}, ms"] = 1000 * median(timed(reader, f"/v1/models/{name}/deposits"))
                results[f"classes of {name}, ms"] = 1000 * median(timed(reader, f"/v1/models/{name}/classes"))
        for name in ("few", "many"):
            [deposit] = client._call("GET", f"/v1/models/{name}/deposits", params={"limit": 1})["items"]
            times = []
            for _ in range(5):
                begin = time.perf_counter()
                withdrawal = client.withdraw([deposit["id"]], holder="benchmark", reason="benchmark")
                times.append(time.perf_counter() - begin)
                client.revoke(withdrawal["id"])
            results[f"withdraw of {name}, ms"] = 1000 * median(times)
            client.withdraw([deposit["id"]], holder="benchmark", reason="benchmark")
        for clients in CLIENTS:
            loads: dict[str, list[Load]] = {"few": [], "many": []}
            for _ in range(generator.rounds):
                for name, loads_of_model in loads.items():
                    loads_of_model.append(generator.ours(server, name, clients))
            for name, loads_of_model in loads.items():
                results[f"answers a second of {name}, {clients} clients"] = median_load(loads_of_model).rate
    return results


def timed(client: httpx.Client, path: str, times: int = 20) -> list[float]:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        client.get(path).raise_for_status()
        seconds.append(time.perf_counter() - begin)
    return seconds


def markdown(results: dict[str, Any]) -> list[str]:
    """The lines of the report."""
    lines = ["| server | clients | answers a second | p50, ms | p99, ms |", "|---|---|---|---|---|"]
    for name, by_clients in results["servers"].items():
        for clients, load in by_clients.items():
            lines.append(f"| {name} | {clients} | {load['rate']:.0f} | {load['p50']:.1f} | {load['p99']:.1f} |")
    lines += [f"| bare network, batches | {size} | {rate:.0f} | | |" for size, rate in results["bare"].items()]
    ours = results["servers"]["ours"]
    for other in ("LitServe", "BentoML"):
        others = [by_clients for name, by_clients in results["servers"].items() if name.startswith(other)]
        lines += ["", f"| clients | ours / {other} | p99, ours / {other} |", "|---|---|---|"]
        for clients in CLIENTS:
            rate = ours[clients]["rate"] / max(by_clients[clients]["rate"] for by_clients in others)
            p99 = ours[clients]["p99"] / min(by_clients[clients]["p99"] for by_clients in others)
            lines.append(f"| {clients} | {rate:.2f} | {p99:.2f} |")
    lines += ["", "| clients | ours / bare network |", "|---|---|"]
    lines += [f"| {clients} | {ours[clients]['rate'] / results['bare'][clients]:.2f} |" for clients in CLIENTS]
    lines += ["", "| withdrawn | batch | time, recover / target | multiply-adds | time over that limit |"]
    lines.append("|---|---|---|---|---|")
    for count, ratios in results["withdrawn"].items():
        for batch in map(str, CLIENTS):
            ratio, limit = ratios[batch], ratios["limit"]
            lines.append(f"| {count} | {batch} | {ratio:.2f} | {limit:.2f} | {ratio / limit:.2f} |")
    totals = [one["withdraw"] + one["answer"] for one in results["cold"]]
    parts = {name: median(one[name] for one in results["cold"]) for name in ("withdraw", "answer")}
    lines += [
        "",
        (
            f"Cold withdrawal, {len(totals)} times: median {median(totals):.0f} ms ({min(totals):.0f} to "
            f"{max(totals):.0f}), of which the withdrawal {parts['withdraw']:.0f} and the answer {parts['answer']:.0f}."
        ),
        "",
        *(f"- {name}: {value:.1f}" for name, value in results["many"].items()),
    ]
    return lines


def main(
    seconds: Annotated[int, typer.Option(help="Duration of each run under load.")] = 6,
    rounds: Annotated[int, typer.Option(help="How often each run is repeated; the median counts.")] = 3,
) -> None:
    """Write benchmarks/results/serving-cpu.json and .md."""
    with TemporaryDirectory() as folder:
        installation = Installation(Path(folder))
        generator = LoadGenerator(installation, seconds, rounds)
        with installation.served() as (_, client):
            installation.register(client, "wide", CLASSES, 1.0)
            deposits = [installation.deposit(client, "wide", index) for index in range(max(WITHDRAWN))]
        results = servers(installation, generator)
        results["cold"] = [one for _ in range(rounds) for one in cold(installation, deposits)]
        with installation.served() as (_, client):
            client.withdraw(deposits, holder="benchmark", reason="benchmark")
        results["withdrawn"] = withdrawn(installation, rounds)
        results["many"] = many(installation, generator)
    outcomes = {"serving": [results | circumstances("cpu") | {"seed": 0, "precision": "float32"}]}
    Console().print(reports.write("serving-cpu", "Serving, ResNet-18 on 32 x 32 images", markdown(results), outcomes))


if __name__ == "__main__":
    typer.run(main)
