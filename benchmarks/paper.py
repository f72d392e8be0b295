"""The paper's tables and figures: `uv run python -m benchmarks.paper table1 --data cifar10`.

Each row is an `Experiment`. Its result is stored in `benchmarks/results/runs`, so a command that was stopped goes on
where it was.
"""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import typer
from rich.console import Console
from torch import Tensor, nn

from benchmarks import data as sources
from benchmarks import figures, published, reports, students
from benchmarks.experiments import Experiment, carry_out, circumstances, original, progress, run_all, stored
from benchmarks.options import DataOption, DeviceOption, ImagesOption, PresetOption, WidthOption
from benchmarks.settings import ABLATION, OURS, SPLITS
from lirf_core.compute import Compute
from lirf_core.config import DepositConfig
from lirf_core.features import answers_of
from lirf_core.metrics import logits_of
from lirf_core.recover import RecoverNetwork

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
console = Console()

SWEPT_SPLITS = ("layer1", "layer2", "layer3")
PRUNING_RATES = (0.0, 0.25, 0.5, 0.75)
FIGURE_IMAGES = {"quick": 150, "full": 500}  # of each class, in figure 3
PARTS: dict[str, reports.Column] = {"Pre": lambda one: one["preserved"], "Dep": lambda one: one["deposited"]}
TEACHERS: dict[str, tuple[students.Teacher, DepositConfig]] = {
    "original": ("original", OURS),
    "target w/o L_at": ("target", replace(OURS, lambda_at=0.0)),
    "target w/ L_at": ("target", OURS),
    "target w/o L_at and L_pr": ("target", replace(OURS, lambda_at=0.0, lambda_pr=0.0)),
}


@app.command()
def table1(
    data: DataOption = "digits",
    preset: PresetOption = "quick",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
) -> None:
    """Original, target and recover network: Pre, Dep, F, H, Avg."""
    rows = [
        (f"split after {split}", one)
        for split in SPLITS
        for one in _seeds(preset, Experiment(data, OURS, split=split, width=width, images=images))
    ]
    outcomes = run_all(rows, device)
    first = {"original": next(iter(outcomes.values()))}
    whole: dict[str, reports.Column] = {
        "Pre": lambda one: one["original"]["preserved"],
        "Dep": lambda one: one["original"]["deposited"],
        "Avg": lambda one: one["original"]["average"],
        "probe Dep": lambda one: one["original"]["probe"]["deposited"],
    }
    lines = [*reports.table(first, whole), "", *reports.table(outcomes)]
    _write(f"table1-{_of(data, width, images)}-{preset}", f"Table 1, {data}", lines, outcomes)


@app.command()
def table1_published(
    data: DataOption = "digits",
    preset: PresetOption = "quick",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
) -> None:
    """The authors' published settings, evaluated by one rule and as their code does."""
    first = Experiment(data, split=published.SPLIT, width=width, images=images)
    config, ones = published.PublishedConfig(), []
    for one in _seeds(preset, first):
        with progress(f"as published, seed {one.seed}") as on_step:
            run = partial(published.outcome, one, config, device, on_step)
            ones.append(stored(one, {"published": config}, device, run))
    rows: dict[str, reports.Column] = {
        "target Pre": lambda one: one["target"]["preserved"],
        "target Dep": lambda one: one["target"]["deposited"],
        "recover Pre": lambda one: one["recover"]["preserved"],
        "recover Dep": lambda one: one["recover"]["deposited"],
        "recover Avg": lambda one: one["recover"]["average"],
    }
    original_as_both = [one | {"target": one["original"], "recover": one["original"]} for one in ones]
    last = [one | {"target": one["epochs"][-1]["target"], "recover": one["epochs"][-1]["eq8"]} for one in ones]
    outcomes = {
        "original": original_as_both,
        "one rule (eq. 8, all logits), last epoch": last,
        "evaluated as the authors' code does (two rules, best epochs on the test images)": [
            one | one["as_their_code"] for one in ones
        ],
    }
    name = f"table1-published-{_of(data, width, images)}-{preset}"
    _write(name, f"Table 1, the authors' settings, {data}", reports.table(outcomes, rows), {"as published": ones})


@app.command()
def table2(
    data: DataOption = "digits",
    preset: PresetOption = "quick",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
) -> None:
    """Ablation of the loss terms, of pruning, and of the additions to the paper."""
    rows = [
        (label, one)
        for label, config in ABLATION.items()
        for one in _seeds(preset, Experiment(data, config, width=width, images=images))
    ]
    outcomes = run_all(rows, device)
    _write(f"table2-{_of(data, width, images)}-{preset}", f"Table 2, {data}", reports.table(outcomes), outcomes)


@app.command()
def table3(
    data: DataOption = "digits",
    preset: PresetOption = "quick",
    device: DeviceOption = "auto",
    images: ImagesOption = None,
) -> None:
    """What students that learn from the target know about the deposited classes."""
    images_each, epochs = (None, 15) if preset == "full" else (500, 5)
    rows = [
        (f"{student}, by {way}, from {name}", one, students.StudentTraining(student, way, kind, images_each, epochs))
        for student in students.STUDENTS
        for way in students.DISTILLATIONS
        for name, (kind, config) in TEACHERS.items()
        for one in _seeds(preset, Experiment(data, config, images=images))
    ]
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for number, (label, one, training) in enumerate(rows, 1):
        with progress(f"{number} of {len(rows)}: {label}, seed {one.seed}") as on_step:
            outcomes.setdefault(label, []).append(students.outcome(one, training, device, on_step))
    _write(f"table3-{_of(data, None, images)}-{preset}", f"Table 3, {data}", reports.table(outcomes, PARTS), outcomes)


@app.command()
def figure3(
    data: DataOption = "digits",
    preset: PresetOption = "quick",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
) -> None:
    """t-SNE of the last layer's features: original, target, module and recover network."""
    source, experiment = sources.load(data), Experiment(data, OURS, width=width, images=images)
    compute, exact = Compute.for_training(device), Compute.for_inference(device)
    where_and_when = circumstances(device)
    network = original(source, experiment, compute)
    with progress("deposit") as on_step:
        result = carry_out(experiment, source, network, compute, on_step)
    held_out = source.held_out.first_of_each(FIGURE_IMAGES[preset])

    def features(lower: nn.Module) -> Tensor:
        return answers_of(
            exact.place(lower), exact.place(network.upper), held_out.pixels, source.preprocessing, exact
        ).features

    by_network = {
        "original": features(network.lower),
        "target": features(result.target.lower),
        "deposit module": features(result.module.lower),
    }
    # The recover network's features are those of the part that gave its answer.
    recover = exact.place(RecoverNetwork(result.target, [result.module], result.module.upper_digest, source.preserved))
    answers = logits_of(recover, held_out.pixels, source.preprocessing, exact).argmax(1)
    is_module_answer = (answers < len(source.deposited))[:, None]
    by_network["recover"] = by_network["deposit module"].where(is_module_answer, by_network["target"])
    is_deposited = held_out.labels < len(source.deposited)
    name = f"figure3-{_of(data, width, images)}-{preset}"
    figures.t_sne(name, by_network, held_out.labels, source.classes, len(source.deposited))
    run = {"experiment": asdict(experiment)} | where_and_when
    outcomes = {
        title: [run | figures.separation(of_network, held_out.labels, is_deposited)]
        for title, of_network in by_network.items()
    }
    lines = [
        f"![t-SNE of the last layer's features]({name}.png)",
        "",
        f"Mean silhouette (cosine), up to {FIGURE_IMAGES[preset]} held-out images per class; 100: separate, 0: mixed.",
        "",
        *reports.table(outcomes, PARTS),
    ]
    _write(name, f"Figure 3, {data}", lines, outcomes)


@app.command()
def figure4(
    data: DataOption = "digits",
    preset: PresetOption = "quick",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
) -> None:
    """Sweeps of the split and of the pruning rate."""
    by_split = {split: Experiment(data, OURS, split=split, width=width, images=images) for split in SWEPT_SPLITS}
    by_rate = {
        f"{rate:g}": Experiment(data, replace(OURS, pruning_rate=rate), width=width, images=images)
        for rate in PRUNING_RATES
    }
    outcomes = {
        sweep: run_all([(value, one) for value, point in points.items() for one in _seeds(preset, point)], device)
        for sweep, points in {"split": by_split, "pruning rate": by_rate}.items()
    }
    name = f"figure4-{_of(data, width, images)}-{preset}"
    figures.sweeps(name, outcomes)
    flat = {f"{sweep} {value}": runs for sweep, points in outcomes.items() for value, runs in points.items()}
    _write(name, f"Figure 4, {data}", reports.table(flat), flat)


_SEEDS = {"quick": [0], "full": [0, 1, 2]}


def _seeds(preset: str, experiment: Experiment) -> list[Experiment]:
    return [replace(experiment, seed=seed) for seed in _SEEDS[preset]]


def _of(data: str, width: float | None, images: int | None = None) -> str:
    parts = [data.strip("/").replace("/", "_"), f"w{width:g}" if width else "", f"{images}-images" if images else ""]
    return "-".join(part for part in parts if part)


def _write(name: str, title: str, lines: list[str], outcomes: reports.Outcomes) -> None:
    console.print(reports.write(name, title, lines, outcomes), markup=False)


def main() -> None:
    try:
        app()
    except sources.NoSuchData as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
