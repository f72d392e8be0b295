"""Five deposits of one class each on one model, one after the other: `uv run python -m benchmarks.sequence`.

Then every subset of them is withdrawn, and a probe reads what an earlier deposit's module still knows of the classes
that were deposited later.
"""

from dataclasses import asdict, replace
from functools import partial
from itertools import combinations
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import data as sources
from benchmarks import reports
from benchmarks.data import Data
from benchmarks.experiments import Experiment, OnStep, circumstances, original, progress
from benchmarks.options import DataOption, DeviceOption, ImagesOption, WidthOption
from benchmarks.settings import OURS
from lirf_core.compute import Compute
from lirf_core.deposit import deposit, scrub
from lirf_core.evidence.probe import linear_probe
from lirf_core.features import answers_of
from lirf_core.lesson import Lesson
from lirf_core.metrics import accuracy, logits_of
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule, RecoverNetwork
from lirf_core.training import Progress, Run


def main(
    data: DataOption = "digits",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
    deposits: Annotated[int, typer.Option(help="How many of the first classes to deposit.")] = 5,
    seed: int = 0,
) -> None:
    """Write benchmarks/results/sequence-DATA.json and .md."""
    source, experiment = sources.load(data), Experiment(data, width=width, seed=seed, images=images)
    compute, exact = Compute.for_training(device), Compute.for_inference(device)
    network = original(source, experiment, compute)
    config = replace(OURS, augmentation=source.augmentation, seed=seed)
    everything = list(range(len(source.classes)))

    modules: list[DepositModule] = []
    as_made: list[DepositModule] = []
    target = network
    targets: list[dict[str, Any]] = []
    for index in range(deposits):
        images_of_class = source.training.of_classes([index]).first_of_each(images)
        preserved = everything[index + 1 :]
        lesson = Lesson(images_of_class.pixels, images_of_class.labels, [index], preserved, source.preprocessing)
        with progress(f"deposit of {source.classes[index]}") as on_step:
            result = deposit(target, lesson, Run(config, compute, partial(_show, on_step)))
        for number, module in enumerate(modules):
            with progress(f"  scrub of {source.classes[module.classes[0]]}'s module") as on_step:
                modules[number] = scrub(module, network.upper, lesson, Run(config, compute, partial(_show, on_step)))
        target = result.target
        modules.append(result.module)
        as_made.append(result.module)
        targets.append(_forgotten(source, network, target, index + 1, exact))

    outcomes = {
        "every subset withdrawn, modules as made": _subsets(source, network, target, as_made, deposits, exact),
        "every subset withdrawn, modules scrubbed": _subsets(source, network, target, modules, deposits, exact),
    }
    leaks = {
        "modules as made": _leaks(source, network, as_made, exact),
        "modules scrubbed": _leaks(source, network, modules, exact),
    }
    report: dict[str, list[dict[str, Any]]] = {
        name: [row | circumstances(device) | {"seed": seed} for row in rows]
        for name, rows in {**outcomes, **leaks, "targets": targets}.items()
    }
    worst = {"mean difference": lambda one: one["difference"]}
    lines = [
        "The target after each deposit of one class, and the original on the same images, percent correct:",
        "",
        *reports.table(
            {f"after {one['deposits']}": [one] for one in targets},
            {
                "target Pre": lambda one: one["target"]["preserved"],
                "original Pre": lambda one: one["original"]["preserved"],
                "target Dep": lambda one: one["target"]["deposited"],
                "original Dep": lambda one: one["original"]["deposited"],
            },
        ),
        "",
        (
            "Average of the recover network over preserved and withdrawn classes, minus the original's on the same "
            "images; mean and spread over the subsets, in points:"
        ),
        "",
        *reports.table({name: report[name] for name in outcomes}, worst),
        "",
        *(f"- {name}: worst {min(row['difference'] for row in rows):.2f}" for name, rows in outcomes.items()),
        "",
        "What a module still knows of classes deposited later, percent correct by its answers and by a linear probe:",
        "",
        *reports.table(
            {name: report[name] for name in leaks},
            {"answers": lambda one: one["answers"], "probe": lambda one: one["probe"]},
        ),
    ]
    name = f"sequence-{source.name}" + (f"-{images}-images" if images else "")
    Console().print(reports.write(name, f"Deposits in sequence, {data}", lines, report))


def _forgotten(
    data: Data, network: SplitNetwork, target: SplitNetwork, deposits: int, compute: Compute
) -> dict[str, Any]:
    accuracies: dict[str, Any] = {"deposits": deposits}
    for name, whole in (("original", network), ("target", target)):
        logits = logits_of(compute.place(whole), data.held_out.pixels, data.preprocessing, compute)
        accuracies[name] = asdict(accuracy(logits, data.held_out.labels, range(deposits)))
    return accuracies


def _show(on_step: OnStep, progress: Progress) -> None:
    on_step(progress.step, progress.steps)


def _subsets(
    data: Data,
    network: SplitNetwork,
    target: SplitNetwork,
    modules: list[DepositModule],
    deposits: int,
    compute: Compute,
) -> list[dict[str, Any]]:
    """Run each part of the recover networks once, and join their logits for every subset."""
    preserved = list(range(deposits, len(data.classes)))
    parts = [network, target, *(SplitNetwork(module.lower, network.upper) for module in modules)]
    by_part = [logits_of(compute.place(part), data.held_out.pixels, data.preprocessing, compute) for part in parts]
    labels, rows = data.held_out.labels, []
    for size in range(deposits + 1):
        for withdrawn in combinations(range(deposits), size):
            is_answered = torch.isin(labels, torch.tensor([*preserved, *withdrawn]))
            original_logits, target_logits, *module_logits = (logits[is_answered] for logits in by_part)
            recover = RecoverNetwork(target, [modules[i] for i in withdrawn], modules[0].upper_digest, preserved)
            joined = recover.join(target_logits, [module_logits[i] for i in withdrawn])
            average, before = (
                accuracy(logits, labels[is_answered], withdrawn).average for logits in (joined, original_logits)
            )
            assert average is not None
            assert before is not None
            rows.append({"withdrawn": list(withdrawn), "average": average, "difference": average - before})
    return rows


def _leaks(data: Data, network: SplitNetwork, modules: list[DepositModule], compute: Compute) -> list[dict[str, Any]]:
    """For each module except the last, its accuracy on the classes that were deposited later."""
    rows = []
    training = data.training.first_of_each(600)
    for number, module in enumerate(modules[:-1]):
        later = list(range(number + 1, len(modules)))
        seen, held_out = (
            answers_of(
                compute.place(module.lower), compute.place(network.upper), images.pixels, data.preprocessing, compute
            )
            for images in (training, data.held_out)
        )
        probe_answers = linear_probe((seen.features, training.labels), held_out.features, len(data.classes))
        by_probe = accuracy(probe_answers, data.held_out.labels, later)
        by_module = accuracy(held_out.logits, data.held_out.labels, later)
        rows.append({"module": number, "answers": by_module.deposited, "probe": by_probe.deposited})
    return rows


if __name__ == "__main__":
    typer.run(main)
