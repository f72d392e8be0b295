"""How soon attackers read the deposited classes again: `uv run python -m benchmarks.hardening --data digits`.

The original, the deposit's target, hardened targets and a reference that never saw the classes face the same attackers.
Each attacker is a draw of images. Networks and attacks that have run before are read from their files, so an
interrupted run goes on where it stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console

from benchmarks import data as sources
from benchmarks import reports
from benchmarks.data import Images
from benchmarks.experiments import Experiment, deposit_set, progress, stored
from benchmarks.options import DataOption, DeviceOption, ImagesOption, SplitOption, WidthOption
from benchmarks.settings import HARDENINGS
from benchmarks.subjects import Recipe, Workshop
from lirf_core.class_rows import with_rows, without_rows
from lirf_core.compute import Compute
from lirf_core.evidence.attacks.anamnesis import anamnesis_index, relearning_time
from lirf_core.evidence.attacks.attacker import Attacker, Attempt
from lirf_core.evidence.attacks.config import AttackConfig
from lirf_core.evidence.attacks.statistic import Accuracies, advantage
from lirf_core.evidence.attacks.suite import DEPTHS, attacked, best
from lirf_core.evidence.images import Labelled, halves
from lirf_core.network import SplitNetwork

PENALTY = 10.0  # of the probe in the other tables
NONE_UNSEEN = (
    "The deposit set has every training image of its classes, so the attackers learn from images that the deposit was "
    "made with. Leave some out (--images) to attack with others."
)
QUICK = AttackConfig(
    images=(10,),
    probe_images=(10, 100),
    penalties=(PENALTY,),
    heads=("prototypes",),
    learning_rates=(0.03,),
    steps=(20, 80),
)


@dataclass(frozen=True)
class Subject:
    """A network under attack. recipe: of a hardened one."""

    name: Literal["original", "target", "hardened", "reference"]
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Draw:
    """One attacker: the number of a draw of images, and how many images of each class they tune on and are asked."""

    number: int
    each: int


def outcome(workshop: Workshop, subject: Subject, attack: AttackConfig, draw: Draw, device: str) -> dict[str, Any]:
    """One attacker's attempts on a network; stored."""

    def run() -> dict[str, Any]:
        network, answered = network_of(workshop, subject)
        attacker = attacker_of(workshop, attack, draw, device)
        found = attacked(network, answered, attacker, replace(attack, seed=draw.number))
        if draw.number:  # the first attacker measures the time
            return asdict(found) | {"relearning_time": None, "goal": None}
        whole = with_rows(network, answered, attacker.classes)
        goal = 0.9 * found.before.deposited if subject.name == "original" else knowledge(workshop, attack, draw, device)
        time = relearning_time(whole, attacker, goal, max(attack.probe_images), draw.number)
        return asdict(found) | {"relearning_time": time, "goal": goal}

    return stored(workshop.experiment, {"subject": subject, "attack": attack, "draw": draw}, device, run)


def knowledge(workshop: Workshop, attack: AttackConfig, draw: Draw, device: str) -> float:
    """90 % of the original's deposited accuracy, the goal of the anamnesis index (alpha is 10 %)."""
    goal: float = outcome(workshop, Subject("original"), attack, draw, device)["goal"]
    return goal


def network_of(workshop: Workshop, subject: Subject) -> tuple[SplitNetwork, list[int]]:
    """The network and the class of each of its rows: every class of the original, the preserved ones of the others."""
    preserved = workshop.data.preserved
    if subject.name == "original":
        return workshop.original(), list(range(len(workshop.data.classes)))
    if subject.recipe:
        with progress("hardening") as on_step:
            return workshop.hardened(subject.recipe, on_step), preserved
    whole = workshop.target() if subject.name == "target" else workshop.reference()
    return without_rows(whole, preserved), preserved


def attacker_of(workshop: Workshop, attack: AttackConfig, draw: Draw, device: str) -> Attacker:
    """Learning images are training images that no deposit saw; the held-out images are halved anew in each draw."""
    data = workshop.data
    learning = _unseen(workshop, max(*attack.images, *attack.probe_images), draw.number)
    tuning, questions = halves(Labelled(data.held_out.pixels, data.held_out.labels), draw.number)
    return Attacker(
        Labelled(learning.pixels, learning.labels),
        tuning.first_of_each(draw.each),
        questions.first_of_each(draw.each),
        data.deposited,
        data.preserved,
        data.preprocessing,
        data.augmentation,
        workshop.compute,
        Compute.for_inference(device),
    )


def _unseen(workshop: Workshop, count: int, draw: int) -> Images:
    """Random training images of each class, none of the deposit set if others are left. Says so if none are."""
    data = workshop.data
    in_deposit = {image.numpy().tobytes() for image in deposit_set(data, workshop.experiment).pixels}
    is_unseen = torch.tensor([image.numpy().tobytes() not in in_deposit for image in data.training.pixels])
    unseen = data.training.where(is_unseen)
    if len(set(unseen.labels.tolist())) < len(data.classes):
        Console(stderr=True).print(NONE_UNSEEN)
        unseen = data.training
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(draw))
    return unseen.where(order).first_of_each(count)


def main(
    data: DataOption = "digits",
    split: SplitOption = "layer2",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: ImagesOption = None,
    quick: Annotated[bool, typer.Option(help="A small attacker, to compare hardenings with.")] = False,
    settings: Annotated[list[str] | None, typer.Option(help="Hardenings; default: all of them.")] = None,
    few: Annotated[list[int] | None, typer.Option(help="Images of each class for an attacker.")] = None,
    draws: Annotated[int, typer.Option(help="Attackers.")] = 3,
    seed: Annotated[list[int] | None, typer.Option(help="Of networks of each kind; default: 0.")] = None,
    each: Annotated[int, typer.Option(help="Tuning images and questions of each class.")] = 100,
    epochs: Annotated[int, typer.Option(help="Epochs of original and reference.")] = 14,
) -> None:
    """Write benchmarks/results/hardening-DATA.json and .md."""
    source, compute = sources.load(data), Compute.for_training(device)
    attack = QUICK if quick else AttackConfig()
    if few:
        attack = replace(attack, images=tuple(sorted(few)))
    recipes = {name: HARDENINGS[name] for name in settings or HARDENINGS}
    subjects = {
        "original": Subject("original"),
        "target": Subject("target"),
        **{f"hardened: {name}": Subject("hardened", recipe) for name, recipe in recipes.items()},
        "reference": Subject("reference"),
    }
    outcomes: dict[str, list[dict[str, Any]]] = {name: [] for name in subjects}
    for one in seed or [0]:
        experiment = Experiment(data, split=split, width=width, images=images, original_epochs=epochs, seed=one)
        workshop = Workshop(experiment, source, compute)
        for number in range(draws):
            for name, subject in subjects.items():
                with progress(f"seed {one}, attacker {number}: {name}"):
                    outcomes[name].append(outcome(workshop, subject, attack, Draw(number, each), device))
    name = f"hardening-{source.name}" + (f"-{images}-images" if images else "") + ("-quick" if quick else "")
    title = f"Attacks on hardened targets, {data}, {split}"
    text = reports.write(name, title, _tables(outcomes, attack), outcomes)
    Console().print(text, markup=False)


def _tables(outcomes: reports.Outcomes, attack: AttackConfig) -> list[str]:
    """What is read, and by how many points more than from the reference."""
    readings = _readings(attack)
    before: dict[str, reports.Column] = {
        "answers Dep": lambda one: one["before"]["deposited"],
        "answers Pre": lambda one: one["before"]["preserved"],
    }
    lines = [f"Percent of the deposited classes read at a cost of {attack.cost:g} points of the preserved accuracy", ""]
    lines += reports.table(outcomes, {**before, **readings, **_times(outcomes)})
    lines += ["", "AIN –: the goal was not reached within ten epochs, by this network or by the reference."]
    lines += ["", "Points more than from the reference, with 95 % intervals over the attackers", ""]
    lines += ["| | " + " | ".join(readings) + " |", "|---" * (len(readings) + 1) + "|"]
    for name, ones in outcomes.items():
        if name != "reference":
            cells = [_advantage(ones, outcomes["reference"], reading) for reading in readings.values()]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _readings(attack: AttackConfig) -> dict[str, Callable[[dict[str, Any]], float]]:
    budgets = [(0, 0), *((count, steps) for count in attack.images for steps in (20, 80) if steps in attack.steps)]
    named: dict[str, Callable[[dict[str, Any]], float]] = {
        f"{count} images, {steps} steps" if steps else "no image": _best(count, steps) for count, steps in budgets
    }
    probes = {
        f"probe{place}, {count} images": _probe(place, count) for place in DEPTHS for count in attack.probe_images
    }
    return named | probes


def _best(count: int, steps: int) -> Callable[[dict[str, Any]], float]:
    return lambda one: best(_attempts(one), count, steps).at_cost.deposited


def _probe(place: str, count: int) -> Callable[[dict[str, Any]], float]:
    """The deposited accuracy of the logistic probe without a constant, as the other tables report it."""

    def read(one: dict[str, Any]) -> float:
        settings = f"logistic probe{place}", f"penalty {PENALTY:g}", count
        (probe,) = (a for a in _attempts(one) if (a.attack, a.settings, a.images) == settings)
        return probe.plain.deposited

    return read


def _times(outcomes: reports.Outcomes) -> dict[str, reports.Column]:
    """The index; no figure if the goal was not reached within ten epochs, by this network or by a reference."""
    times = [one["relearning_time"] for one in outcomes["reference"] if not one["draw"]["number"]]
    reference = None if None in times else round(fmean(times))
    return {"AIN": lambda one: anamnesis_index(one["relearning_time"], reference)}


def _attempts(one: dict[str, Any]) -> list[Attempt]:
    return [
        Attempt(**{**attempt, "at_cost": Accuracies(**attempt["at_cost"]), "plain": Accuracies(**attempt["plain"])})
        for attempt in one["attempts"]
    ]


def _advantage(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], reading: Callable[[dict[str, Any]], float]
) -> str:
    found = advantage([reading(one) for one in ours], [reading(one) for one in theirs])
    interval = f" ({found.low:+.1f} to {found.high:+.1f})" if found.draws > 1 else ""
    return f"{found.points:+.1f}{interval}"


if __name__ == "__main__":
    typer.run(main)
