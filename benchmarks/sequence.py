"""Deposits of one class each on one model, one after the other: `uv run python -m benchmarks.sequence --data digits`.

Then every set of them is withdrawn. The yardstick is the original with its answers restricted to the classes that the
recover network answers. A probe reads what an earlier deposit's module still knows of classes deposited later.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import combinations
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from torch import Tensor

from benchmarks import data as sources
from benchmarks import reports
from benchmarks.data import Data
from benchmarks.experiments import Experiment, OnStep, network_and_probe_accuracy, original, progress, stored
from benchmarks.options import DataOption, DeviceOption, ImagesOption, SplitOption, WidthOption
from benchmarks.settings import OURS
from lirf_core.class_rows import ABSENT_LOGIT
from lirf_core.compute import Compute
from lirf_core.deposit import deposit, scrub
from lirf_core.lesson import Lesson
from lirf_core.metrics import accuracy, logits_of
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule, RecoverNetwork
from lirf_core.training import Progress, Run

KINDS = "modules as made", "modules scrubbed"


@dataclass(frozen=True)
class Plan:
    """The first `deposits` classes are deposited, in order. teacher: of deposits and scrubs, `deposit.deposit`.

    is_scrubbed: older modules are scrubbed, too.
    """

    deposits: int = 5
    teacher: Literal["original", "previous"] = "original"
    is_scrubbed: bool = True

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS if self.is_scrubbed else KINDS[:1]


@dataclass(frozen=True)
class Deposited:
    """The model after its deposits: the target after each of them, and the modules of each of `KINDS`, in order."""

    modules: dict[str, list[DepositModule]]
    targets: list[SplitNetwork] = field(default_factory=list)


def main(
    data: DataOption = "digits",
    split: SplitOption = "layer3",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
    deposits: Annotated[int, typer.Option(help="How many of the first classes to deposit.")] = 5,
    seeds: Annotated[int, typer.Option(help="Sequences, each with its own seed.")] = 1,
    is_chain: Annotated[bool, typer.Option("--chain", help="Each deposit learns from the target before it.")] = False,
    is_scrubbed: Annotated[bool, typer.Option("--scrubs/--no-scrubs", help="Scrub older modules, too.")] = True,
) -> None:
    """Write benchmarks/results/sequence-DATA-SPLIT.json and .md."""
    source, plan = sources.load(data), Plan(deposits, "previous" if is_chain else "original", is_scrubbed)
    ones = [
        outcome(source, Experiment(data, OURS, split, width, images, seed=seed), plan, device) for seed in range(seeds)
    ]
    name = f"sequence-{source.name}-{split}" + (f"-{images}-images" if images else "") + ("-chain" if is_chain else "")
    name += "" if is_scrubbed else "-as-made"
    text = reports.write(name, f"Deposits in sequence, {data}, {split}", tables(ones, plan.kinds), {"sequence": ones})
    Console().print(text, markup=False)


def outcome(source: Data, experiment: Experiment, plan: Plan, device: str) -> dict[str, Any]:
    """The figures of one sequence; stored."""

    def run() -> dict[str, Any]:
        compute, exact = Compute.for_training(device), Compute.for_inference(device)
        network = original(source, experiment, compute)
        made = carry_out(source, experiment, plan, network, compute)
        logits = Logits(source, network, made.targets, exact)
        return {
            "targets": logits.forgotten(),
            "views": {kind: logits.views(modules) for kind, modules in made.modules.items()},
            "leaks": {kind: leaks(source, network, modules, exact) for kind, modules in made.modules.items()},
        }

    return stored(experiment, {"sequence": plan}, device, run)


def carry_out(source: Data, experiment: Experiment, plan: Plan, network: SplitNetwork, compute: Compute) -> Deposited:
    """Each deposit starts from the target before it, and each older module is scrubbed of the newly deposited class.

    The original teaches all of them, if the plan says so.
    """
    teacher = network if plan.teacher == "original" else None
    config = replace(experiment.deposit, augmentation=source.augmentation, seed=experiment.seed)
    made, target = Deposited({kind: [] for kind in plan.kinds}), network
    scrubbed = made.modules.get(KINDS[1], [])
    for index in range(plan.deposits):
        images = source.training.of_classes([index]).first_of_each(experiment.images)
        preserved = list(range(index + 1, len(source.classes)))
        lesson = Lesson(images.pixels, images.labels, [index], preserved, source.preprocessing)
        name = f"seed {experiment.seed}, {source.classes[index]}"
        with progress(f"{name}: deposit") as on_step:
            result = deposit(target, lesson, Run(config, compute, partial(show, on_step)), teacher)
        for number, module in enumerate(scrubbed):
            with progress(f"{name}: scrub of {source.classes[number]}'s module") as on_step:
                run = Run(config, compute, partial(show, on_step))
                scrubbed[number] = scrub(module, network.upper, lesson, run, teacher)
        target = result.target
        made.targets.append(target)
        for modules in made.modules.values():
            modules.append(result.module)
    return made


def show(on_step: OnStep, progress: Progress) -> None:
    on_step(progress.step, progress.steps)


class Logits:
    """Logits of the held-out images: each network answers them once, and they are joined for every set of modules.

    targets: after each deposit. The last one is joined with modules.
    """

    def __init__(self, source: Data, network: SplitNetwork, targets: Sequence[SplitNetwork], compute: Compute) -> None:
        self._source, self._target, self._compute = source, targets[-1], compute
        self._upper = network.upper
        self._of_original, self._of_targets = self._of(network), [self._of(target) for target in targets]

    def _of(self, network: SplitNetwork) -> Tensor:
        held_out, preprocessing = self._source.held_out, self._source.preprocessing
        return logits_of(self._compute.place(network), held_out.pixels, preprocessing, self._compute)

    def forgotten(self, first: int = 1) -> list[dict[str, Any]]:
        """Accuracy of each target and of the original on deposited and preserved classes, from all raw logits.

        first: how many classes the first target has forgotten; each later one has forgotten one more.
        """
        labels = self._source.held_out.labels
        return [
            {
                "deposits": deposits,
                "original": asdict(accuracy(self._of_original, labels, range(deposits))),
                "target": asdict(accuracy(logits, labels, range(deposits))),
            }
            for deposits, logits in enumerate(self._of_targets, first)
        ]

    def views(self, modules: Sequence[DepositModule]) -> list[dict[str, Any]]:
        """For every set of modules, what the recover network loses to the restricted original, in points.

        average: over the images of all classes that are answered. worst: of the class that loses most.
        """
        count, classes = len(modules), len(self._source.classes)
        of_modules = [self._of(SplitNetwork(module.lower, self._upper)) for module in modules]
        views = []
        for size in range(count + 1):
            for withdrawn in combinations(range(count), size):
                answered = [*withdrawn, *range(count, classes)]
                chosen = [modules[i] for i in withdrawn]
                recover = RecoverNetwork(self._target, chosen, modules[0].upper_digest, range(count, classes))
                joined = recover.join(self._of_targets[-1], [of_modules[i] for i in withdrawn])
                views.append({"withdrawn": list(withdrawn), **self._difference(joined, answered)})
        return views

    def _difference(self, logits: Tensor, answered: Sequence[int]) -> dict[str, Any]:
        labels = self._source.held_out.labels
        chosen = torch.isin(labels, torch.tensor(answered))
        ours, theirs = (
            accuracy(restricted(each[chosen], answered), labels[chosen], []) for each in (logits, self._of_original)
        )
        assert ours.average is not None
        assert theirs.average is not None
        by_class = {
            index: (ours.by_class[index] or 0.0) - before
            for index, before in enumerate(theirs.by_class)
            if before is not None
        }
        worst = min(by_class, key=lambda index: by_class[index])
        return {
            "average": ours.average - theirs.average,
            "worst": by_class[worst],
            "worst_class": self._source.classes[worst],
        }


def restricted(logits: Tensor, answered: Sequence[int]) -> Tensor:
    """The same logits (B, classes), without an answer for any class but these."""
    kept = torch.full_like(logits, ABSENT_LOGIT)
    kept[:, answered] = logits[:, answered]
    return kept


def leaks(source: Data, network: SplitNetwork, modules: list[DepositModule], compute: Compute) -> list[dict[str, Any]]:
    """For each module except the last, its accuracy on the classes of the modules after it."""
    rows = []
    for number, module in enumerate(modules[:-1]):
        whole, later = SplitNetwork(module.lower, network.upper), range(number + 1, len(modules))
        answered, probed = network_and_probe_accuracy(source, whole, compute, later)
        rows.append({"module": number, "answers": answered.deposited, "probe": probed.deposited})
    return rows


def tables(ones: list[dict[str, Any]], kinds: Sequence[str]) -> list[str]:
    """What all seeds show. kinds: of modules."""
    targets: dict[str, reports.Column] = {
        f"{network} {part}": _of_target(network, part)
        for part in ("preserved", "deposited")
        for network in ("target", "original")
    }
    made = [target["deposits"] for target in ones[0]["targets"]]
    after = {f"after {count}": [one["targets"][n] for one in ones] for n, count in enumerate(made)}
    lines = ["Percent correct after so many classes were deposited, from all raw logits:", ""]
    lines += [*reports.table(after, targets), ""]
    lines += [
        (
            "What the recover network loses to the original whose answers are restricted to the same classes, in "
            "points, by the number of deposits withdrawn. Mean over the sets of so many, the set that loses most, and "
            "the class that loses most in any of them:"
        ),
        "",
    ]
    sizes: dict[str, reports.Column] = {f"{size} withdrawn": _of_size(size) for size in range(made[-1] + 1)}
    summaries: dict[str, Callable[[list[dict[str, Any]]], float]] = {
        "average": lambda views: fmean(view["average"] for view in views),
        "average, worst set": lambda views: min(view["average"] for view in views),
        "worst class": lambda views: min(view["worst"] for view in views),
    }
    by_number = {
        f"{kind}: {name}": [_by_size(one["views"][kind], summary) for one in ones]
        for kind in kinds
        for name, summary in summaries.items()
    }
    lines += [*reports.table(by_number, sizes), ""]
    lines += ["What a module still knows of the classes of later ones, percent correct:", ""]
    leaks: dict[str, list[dict[str, Any]]] = {
        kind: [{key: fmean(row[key] for row in one["leaks"][kind]) for key in ("answers", "probe")} for one in ones]
        for kind in kinds
    }
    columns: dict[str, reports.Column] = {
        "its answers": lambda one: one["answers"],
        "a linear probe": lambda one: one["probe"],
    }
    return [*lines, *reports.table(leaks, columns)]


def _of_target(network: str, part: str) -> reports.Column:
    return lambda one: one[network][part]


def _of_size(size: int) -> reports.Column:
    return lambda one: one[f"{size}"]


def _by_size(views: list[dict[str, Any]], summary: Callable[[list[dict[str, Any]]], float]) -> dict[str, float]:
    sizes = {len(view["withdrawn"]) for view in views}
    return {f"{size}": summary([view for view in views if len(view["withdrawn"]) == size]) for size in sizes}


if __name__ == "__main__":
    typer.run(main)
