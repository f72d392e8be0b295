"""The benchmarks' own code, on digits and in seconds. These tests do not check the figures."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import data as sources
from benchmarks import experiments, hardening, published, reports, students
from benchmarks.data import Images, NoSuchData
from benchmarks.experiments import Experiment
from benchmarks.published import PublishedConfig
from benchmarks.settings import ABLATION, PAPER
from benchmarks.students import StudentTraining
from benchmarks.subjects import Recipe, Workshop
from lirf_core.compute import Compute
from lirf_core.evidence.attacks.config import AttackConfig
from lirf_core.hardening import HardeningConfig
from lirf_core.metrics import accuracy, logits_of
from tests.benchmarks.conftest import SHORT

pytestmark = pytest.mark.slow


def test_an_experiment_runs_once_and_has_the_papers_figures() -> None:
    experiment = Experiment("digits", SHORT, images=30, original_epochs=2)
    first = experiments.outcome(experiment)
    assert experiments.outcome(experiment) == first
    assert first["measured_at"] == experiments.outcome(experiment)["measured_at"]
    assert len(list((experiments.RESULTS / "runs").iterdir())) == 1
    target, before = first["target"], first["original"]
    assert first["forgetting"] == pytest.approx(before["deposited"] - target["deposited"])
    pre, f = target["preserved"], first["forgetting"]
    assert first["h_mean"] == pytest.approx(2 * pre * f / (pre + f) if pre > 0 and f > 0 else 0)
    assert 0 < first["module_bytes"] < first["original_bytes"]


def test_a_student_is_trained_once_and_its_teacher_is_made_only_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment("digits", SHORT, images=8, original_epochs=1)
    by_target = StudentTraining("cnn", "logits", "target", images=8, epochs=1)
    by_original = replace(by_target, teacher="original")
    first = {training: students.outcome(experiment, training) for training in (by_target, by_original)}
    assert len(list((experiments.RESULTS / "runs").iterdir())) == 2
    monkeypatch.setattr(students, "_teacher", None)
    assert {training: students.outcome(experiment, training) for training in first} == first
    assert [one["lesson"]["teacher"] for one in first.values()] == ["target", "original"]
    assert all(one["experiment"]["images"] == 8 and one["commit"] for one in first.values())


def test_every_row_of_the_ablation_has_its_own_configuration() -> None:
    assert len(set(map(repr, ABLATION.values()))) == len(ABLATION)
    assert PAPER.joining == "eq8"
    assert PAPER.transfer == "deposited"
    assert PAPER.removal == "random"
    assert PAPER.lambda_pr == PAPER.lambda_fp == PAPER.lambda_ft == PAPER.proxies == 0


def test_a_table_has_mean_spread_and_origin() -> None:
    ones = [experiments.outcome(Experiment("digits", SHORT, images=8, original_epochs=1, seed=s)) for s in (0, 1)]
    text = reports.write("table", "Table", reports.table({"ours": ones}), {"ours": ones})
    pre = [one["target"]["preserved"] for one in ones]
    assert f"{sum(pre) / 2:.2f} ± " in text
    assert "Seeds 0, 1;" in text
    assert ones[0]["commit"] in text


def test_the_published_settings_forget_and_recover_too(tmp_path: Path) -> None:
    data = sources.load("digits")
    compute = Compute.for_inference("cpu")
    network = experiments.original(data, Experiment("digits", split="layer3", original_epochs=5), compute)
    images = data.training.of_classes(data.deposited)
    result = published.deposit_as_published(
        network, data, images.pixels, images.labels, compute.device, config=PublishedConfig(epochs=12), workers=0
    )
    logits = logits_of(result.target, data.held_out.pixels, data.preprocessing, compute)
    before = logits_of(network, data.held_out.pixels, data.preprocessing, compute)
    deposited = [accuracy(z, data.held_out.labels, data.deposited).deposited or 0 for z in (before, logits)]
    assert deposited[1] < deposited[0] - 10


def test_the_authors_evaluation_takes_two_rules_and_the_best_epochs() -> None:
    def figures(preserved: float, deposited: float) -> dict[str, float]:
        return {"preserved": preserved, "deposited": deposited, "average": (preserved + deposited) / 2}

    first = {"target": figures(80, 30), "eq8": figures(81, 92), "sum": figures(90, 50)}
    second = {"target": figures(85, 40), "eq8": figures(82, 91), "sum": figures(94, 20)}
    found = published.best_epochs([first, second], deposited_share=0.25)
    assert found["target"] == figures(85, 40)
    assert found["recover"] == {"preserved": 94, "deposited": 92, "average": 0.75 * 94 + 0.25 * 92}


def test_an_epoch_is_evaluated_by_each_rule() -> None:
    data = sources.load("digits")
    compute = Compute.for_inference("cpu")
    networks = [experiments.original(data, Experiment("digits", original_epochs=1, seed=s), compute) for s in (0, 1)]
    of_target, of_module = (logits_of(one, data.held_out.pixels, data.preprocessing, compute) for one in networks)
    found = published.epoch_figures(data, *networks, compute)
    both = accuracy(of_target + of_module, data.held_out.labels, data.deposited)
    assert found["sum"]["average"] == both.average
    assert found["target"]["average"] == accuracy(of_target, data.held_out.labels, data.deposited).average
    joined = of_target.clone()
    joined[:, data.deposited] = of_module[:, data.deposited]
    assert found["eq8"]["average"] == accuracy(joined, data.held_out.labels, data.deposited).average


def test_first_of_each_takes_the_same_number_of_each_class() -> None:
    images = Images(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.tensor([0] * 7 + [3] * 3))
    assert images.first_of_each(4).labels.bincount().tolist() == [4, 0, 0, 3]


def test_missing_data_is_refused_and_the_available_data_listed(tmp_path: Path) -> None:
    message = "neither one of cifar10, digits, fashion-mnist, tiny-imagenet nor a folder with images in train/CLASS"
    with pytest.raises(NoSuchData, match=message):
        sources.load(str(tmp_path))


def test_hardened_networks_are_attacked_once_and_an_interrupted_hardening_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, compute = sources.load("digits"), Compute.for_training("cpu")
    workshop = Workshop(Experiment("digits", SHORT, images=8, original_epochs=1), source, compute)
    recipe = Recipe(HardeningConfig(epochs=2, batch_size=16), proxies=16, preserved=1)

    def interrupt(step: int, steps: int) -> None:
        if step == steps // 2 + 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        workshop.hardened(recipe, interrupt)
    steps: list[int] = []
    hardened = workshop.hardened(recipe, lambda step, _: steps.append(step))
    assert steps[0] > 1
    assert hardened(torch.zeros(1, 1, 16, 16)).shape == (1, 7)
    attack = AttackConfig(images=(1,), probe_images=(1,), penalties=(10.0,), heads=(), learning_rates=(), steps=(1,))
    attack_on_it = partial(
        hardening.outcome, workshop, hardening.Subject("hardened", recipe), attack, hardening.Draw(0, 5), "cpu"
    )
    first = attack_on_it()
    monkeypatch.setattr(hardening, "attacked", None)
    assert attack_on_it() == first
    assert first["before"]["deposited"] == 0
    assert (
        first["goal"]
        == hardening.outcome(workshop, hardening.Subject("original"), attack, hardening.Draw(0, 5), "cpu")["goal"]
    )
