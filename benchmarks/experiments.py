"""Experiments, the rows of the tables. An experiment has data, a network, a split, a seed and a `DepositConfig`.

Each runs once, and its result is stored as JSON. Figures are of held-out images, from raw logits, after the last epoch.
Only the probe, an attacker, reads preserved training images; no deposit sees them, except in `benchmarks.preserved`.
"""

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save_file

from benchmarks import data as sources
from benchmarks.data import Data, Images
from lirf_core import artifacts, metrics
from lirf_core.architectures import ArchitectureSpec
from lirf_core.belonging import Belonging
from lirf_core.compute import Compute
from lirf_core.config import DepositConfig
from lirf_core.deposit import DepositResult, deposit
from lirf_core.evidence.probe import linear_probe
from lirf_core.features import answers_of
from lirf_core.lesson import Lesson, PreservedImages
from lirf_core.metrics import Accuracy
from lirf_core.network import SplitNetwork, flat_state
from lirf_core.pretraining import train_original
from lirf_core.recover import RecoverNetwork
from lirf_core.training import Run

RESULTS = Path(__file__).parent / "results"
ORIGINALS = Path(os.environ.get("LIRF_BENCHMARK_ORIGINALS", sources.DOWNLOADS / "originals"))
PROBE_IMAGES = 600  # of each class, for training the probe


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a result. width: None for the data's narrow network, or the trained one in `shared`.

    images: deposit images of each class; None for all.
    """

    data: str
    deposit: DepositConfig = field(default_factory=DepositConfig)
    split: str = "layer2"
    width: float | None = None
    images: int | None = None
    original_epochs: int = 15
    seed: int = 0


OnStep = Callable[[int, int], None]


@contextmanager
def progress(label: str) -> Iterator[OnStep]:
    """Show a progress bar for the steps of one run."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def run_all(experiments: Iterable[tuple[str, Experiment]], device: str = "auto") -> dict[str, list[dict[str, Any]]]:
    """The experiments' outcomes by label, in order. Experiments that have run before are read from their files."""
    rows = list(experiments)
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for number, (label, experiment) in enumerate(rows, 1):
        with progress(f"{number} of {len(rows)}: {label}, seed {experiment.seed}") as on_step:
            outcomes.setdefault(label, []).append(outcome(experiment, device, on_step))
    return outcomes


def outcome(experiment: Experiment, device: str = "auto", on_step: OnStep = lambda *_: None) -> dict[str, Any]:
    """The experiment's stored result; if there is none, run it."""
    return stored(experiment, {}, device, lambda: run_on(sources.load(experiment.data), experiment, device, on_step))


def stored(
    experiment: Experiment, further: dict[str, Any], device: str, run: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The result of `run`, which is called only if no file has it. further: dataclasses, besides the experiment."""
    choices = {"experiment": asdict(experiment)} | {name: asdict(value) for name, value in further.items()}
    keys = (hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest()[:12] for one in choices.values())
    file = RESULTS / "runs" / f"{'-'.join([experiment.data.replace('/', '_'), *keys])}.json"
    if not file.exists():
        before = circumstances(device)  # a commit that is made during the run did not make the figures
        result = choices | run() | before
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def run_on(
    data: Data, experiment: Experiment, device: str, on_step: OnStep, preserved_images: Images | None = None
) -> dict[str, Any]:
    """Carry out the experiment on its data and measure what its files give back."""
    compute = Compute.for_training(device)
    network = original(data, experiment, compute)
    begin = time.perf_counter()
    result = carry_out(experiment, data, network, compute, on_step, preserved_images)
    seconds = time.perf_counter() - begin
    belonging = Belonging(spec_of(data, experiment), experiment.split, result.module.upper_digest)
    module_file = artifacts.dump_module(result.module, belonging)
    result = replace(result, module=compute.place(artifacts.load_module(module_file, belonging)))
    return {
        **measure(data, network, result, Compute.for_inference(device)),
        "deposit_seconds": round(seconds, 2),
        "module_bytes": len(module_file),
        "original_bytes": sum(tensor.nbytes for tensor in flat_state(network).values()),
    }


def carry_out(
    experiment: Experiment,
    data: Data,
    network: SplitNetwork,
    compute: Compute,
    on_step: OnStep = lambda *_: None,
    preserved_images: Images | None = None,
) -> DepositResult:
    """The experiment's deposit of the first 30 % of the classes."""
    config = replace(experiment.deposit, seed=experiment.seed)
    return deposit_of(deposit_set(data, experiment), data, network, config, compute, on_step, preserved_images)


def deposit_of(
    images: Images,
    data: Data,
    network: SplitNetwork,
    config: DepositConfig,
    compute: Compute,
    on_step: OnStep = lambda *_: None,
    preserved_images: Images | None = None,
) -> DepositResult:
    """A deposit of these images, with the data's augmentation. preserved_images: if there are some."""
    beside = PreservedImages(preserved_images.pixels, preserved_images.labels) if preserved_images else None
    lesson = Lesson(images.pixels, images.labels, data.deposited, data.preserved, data.preprocessing, beside)
    augmented = replace(config, augmentation=data.augmentation)
    return deposit(network, lesson, Run(augmented, compute, lambda progress: on_step(progress.step, progress.steps)))


def deposit_set(data: Data, experiment: Experiment) -> Images:
    """The training images of the deposited classes, or the experiment's share of them."""
    return data.training.of_classes(data.deposited).first_of_each(experiment.images)


def spec_of(data: Data, experiment: Experiment) -> ArchitectureSpec:
    """The architecture of the experiment's networks."""
    return data.narrow if experiment.width is None else replace(data.narrow, width=experiment.width)


def original(data: Data, experiment: Experiment, compute: Compute, classes: list[int] | None = None) -> SplitNetwork:
    """The experiment's original network, trained once and stored; with `classes`, one that saw only these classes."""
    spec = spec_of(data, experiment)
    if data.weights and experiment.width is None and classes is None:
        with data.weights.open("rb") as file:
            return compute.place(artifacts.load_original(file, spec, experiment.split))
    names = "all" if classes is None else "-".join(map(str, classes))
    file_name = f"{data.name}-w{spec.width}-{experiment.original_epochs}-{names}-{experiment.seed}.safetensors"
    weights = ORIGINALS / file_name
    if not weights.exists():
        images = data.training if classes is None else data.training.of_classes(classes)
        trained = train_original(
            spec,
            images.pixels,
            images.labels,
            data.preprocessing,
            compute,
            epochs=experiment.original_epochs,
            augmentation=data.augmentation,
            learning_rate=0.001 if data.is_adaptive else 0.1,
            is_adaptive=data.is_adaptive,
            seed=experiment.seed,
        )
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu().contiguous() for name, tensor in flat_state(trained).items()}, weights)
    with weights.open("rb") as file:
        return compute.place(artifacts.load_original(file, spec, experiment.split))


def measure(data: Data, network: SplitNetwork, result: DepositResult, compute: Compute) -> dict[str, Any]:
    """Accuracy of original, target and recover network on held-out images, and of a probe of the first two."""
    images, labels = data.held_out.pixels, data.held_out.labels
    recover = RecoverNetwork(result.target, [result.module], result.module.upper_digest, data.preserved)
    measured: dict[str, Any] = {}
    for name, part in (("original", network), ("target", result.target)):
        accuracy, probe = network_and_probe_accuracy(data, part, compute, data.deposited)
        measured[name] = asdict(accuracy) | {"probe": asdict(probe)}
    logits = metrics.logits_of(compute.place(recover), images, data.preprocessing, compute)
    measured["recover"] = asdict(metrics.accuracy(logits, labels, data.deposited))
    forgetting = metrics.forgetting(measured["original"]["deposited"], measured["target"]["deposited"])
    measured["forgetting"] = forgetting
    measured["h_mean"] = metrics.h_mean(measured["target"]["preserved"], forgetting)
    return measured


def network_and_probe_accuracy(
    data: Data, network: SplitNetwork, compute: Compute, deposited: Collection[int]
) -> tuple[Accuracy, Accuracy]:
    """Held-out accuracy of a network, and of a linear probe of its last layer's features."""
    compute.place(network)
    training, labels = data.training.first_of_each(PROBE_IMAGES), data.held_out.labels
    held_out = answers_of(network.lower, network.upper, data.held_out.pixels, data.preprocessing, compute)
    training_answers = answers_of(network.lower, network.upper, training.pixels, data.preprocessing, compute)
    probe = linear_probe((training_answers.features, training.labels), held_out.features, len(data.classes))
    return metrics.accuracy(held_out.logits, labels, deposited), metrics.accuracy(probe, labels, deposited)


def circumstances(device: str) -> dict[str, Any]:
    """When, where and with which code a figure was measured."""
    compute = Compute.for_training(device)
    is_cuda = compute.device.type == "cuda"
    return {
        "commit": _git("describe", "--always", "--dirty", "--exclude=*"),
        "device": torch.cuda.get_device_name(compute.device) if is_cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": str(compute.autocast_type or torch.float32).removeprefix("torch."),
        "torch": torch.__version__,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)  # noqa: S603, S607
    return answer.stdout.strip() or "unknown"
