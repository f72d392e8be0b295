"""Deposits of single images: `uv run python -m benchmarks.samples --data cifar10`.

Does membership inference still show that the network was trained on them, and does it again after a withdrawal? Half of
the held-out images show how the network answers an unseen image; the figures are of the other half.
"""

from dataclasses import asdict, replace
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import data as sources
from benchmarks import reports
from benchmarks.data import Images
from benchmarks.experiments import Experiment, circumstances, original, progress
from benchmarks.options import DataOption, DeviceOption, SplitOption, WidthOption
from benchmarks.settings import SAMPLES
from lirf_core import metrics
from lirf_core.compute import Compute
from lirf_core.deposit import UnseenMargins, deposit_samples
from lirf_core.evidence.membership import attack
from lirf_core.lesson import Lesson
from lirf_core.losses import margins
from lirf_core.recover import RecoverNetwork
from lirf_core.training import Run


def main(
    data: DataOption = "digits",
    split: SplitOption = "layer3",
    device: DeviceOption = "auto",
    width: WidthOption = None,
    images: Annotated[int, typer.Option(help="Deposit images of each class.")] = 300,
    seed: int = 0,
) -> None:
    """Write benchmarks/results/samples-DATA.json and .md."""
    source, experiment = (
        sources.load(data),
        Experiment(data, SAMPLES, split=split, width=width, images=images, seed=seed),
    )
    compute, exact = Compute.for_training(device), Compute.for_inference(device)
    where_and_when = circumstances(device) | {"experiment": asdict(experiment)}
    network = original(source, experiment, compute)
    classes = list(range(len(source.classes)))
    deposit_images = source.training.first_of_each(images)
    is_reference = torch.arange(len(source.held_out)) % 2 == 0
    reference, questions = source.held_out.where(is_reference), source.held_out.where(~is_reference)

    def margins_of(whole: torch.nn.Module, images: Images) -> tuple[torch.Tensor, float | None]:
        logits = metrics.logits_of(exact.place(whole), images.pixels, source.preprocessing, exact)
        return margins(logits, images.labels), metrics.accuracy(logits, images.labels, []).average

    unseen, _ = margins_of(network, reference)
    compute.place(network)
    config = replace(SAMPLES, augmentation=source.augmentation, seed=seed)
    deposited = sorted(set(deposit_images.labels.tolist()))
    preserved = sorted(set(classes) - set(deposited))
    lesson = Lesson(deposit_images.pixels, deposit_images.labels, deposited, preserved, source.preprocessing)
    with progress("deposit") as on_step:
        run = Run(config, compute, lambda progress: on_step(progress.step, progress.steps))
        result = deposit_samples(network, lesson, UnseenMargins(unseen, reference.labels), run)
    recover = RecoverNetwork(result.target, [result.module], result.module.upper_digest, preserved)

    outcomes: dict[str, list[dict[str, Any]]] = {}
    for name, whole in {"original": network, "target": result.target, "recover": recover}.items():
        (members, on_deposit_images), (strangers, on_held_out) = (
            margins_of(whole, deposit_images),
            margins_of(whole, questions),
        )
        result_of_attack = asdict(attack(members, strangers))
        outcomes[name] = [
            where_and_when
            | {"attack": result_of_attack, "deposit images": on_deposit_images, "held-out images": on_held_out}
        ]
    columns: dict[str, reports.Column] = {
        "AUC": lambda one: 100 * one["attack"]["auc"],
        "± (standard error)": lambda one: 100 * one["attack"]["error"],
        "deposit images": lambda one: one["deposit images"],
        "held-out images": lambda one: one["held-out images"],
    }
    heading = "Membership inference (50: a guess), and percent correct on deposit images and on held-out ones:"
    lines = [heading, "", *reports.table(outcomes, columns)]
    title = f"Deposit of {len(deposit_images)} single images, {data}, {split}"
    Console().print(reports.write(f"samples-{source.name}", title, lines, outcomes))


if __name__ == "__main__":
    typer.run(main)
