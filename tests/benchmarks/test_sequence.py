"""The yardstick of deposits in sequence, on digits and in seconds."""

import pytest
import torch

from benchmarks import data as sources
from benchmarks import experiments, groups, sequence
from benchmarks.experiments import Experiment
from benchmarks.sequence import KINDS, Logits, Plan, restricted
from lirf_core.compute import Compute
from lirf_core.network import digest
from lirf_core.recover import DepositModule
from tests.benchmarks.conftest import SHORT

pytestmark = pytest.mark.slow


def test_restricted_logits_answer_with_no_other_class() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [0.0, 5.0, -40.0]])
    assert restricted(logits, [1, 2]).argmax(1).tolist() == [1, 1]
    assert restricted(logits, [0, 2]).tolist()[1] == [0.0, sequence.ABSENT_LOGIT, -40.0]


def test_an_original_that_is_its_own_target_and_module_loses_nothing_in_any_view() -> None:
    source, exact = sources.load("digits"), Compute.for_inference("cpu")
    network = experiments.original(source, Experiment("digits", original_epochs=1), exact)
    modules = [DepositModule(network.lower, [index], digest(network.upper)) for index in range(3)]
    views = Logits(source, network, [network], exact).views(modules)
    assert len(views) == 8
    assert {(view["average"], view["worst"]) for view in views} == {(0.0, 0.0)}


def test_a_sequence_runs_once_and_shows_every_set_of_its_deposits() -> None:
    source = sources.load("digits")
    arguments = source, Experiment("digits", SHORT, images=8, original_epochs=1), Plan(deposits=2), "cpu"
    first = sequence.outcome(*arguments)
    assert sequence.outcome(*arguments) == first
    for kind in KINDS:
        assert [view["withdrawn"] for view in first["views"][kind]] == [[], [0], [1], [0, 1]]
        assert all(view["worst"] <= view["average"] for view in first["views"][kind])
        assert len(first["leaks"][kind]) == 1
    assert first["views"][KINDS[0]][0] == first["views"][KINDS[1]][0]
    text = "\n".join(sequence.tables([first, first], KINDS))
    assert "| 0 withdrawn | 1 withdrawn | 2 withdrawn |" in text
    assert "± 0.00" in text


def test_a_sequence_may_leave_scrubs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sequence, "scrub")
    source, plan = sources.load("digits"), Plan(deposits=2, is_scrubbed=False)
    outcome = sequence.outcome(source, Experiment("digits", SHORT, images=8, original_epochs=1), plan, "cpu")
    assert list(outcome["views"]) == list(outcome["leaks"]) == ["modules as made"]
    assert "modules scrubbed" not in "\n".join(sequence.tables([outcome], plan.kinds))


def test_groups_of_one_job_are_withdrawn_like_deposits_in_sequence() -> None:
    source, plan = sources.load("digits"), groups.Plan(groups=2)
    outcome = groups.outcome(source, Experiment("digits", SHORT, images=8, original_epochs=1), plan, "cpu")
    assert [target["deposits"] for target in outcome["targets"]] == [2]
    for kind in KINDS:
        assert [view["withdrawn"] for view in outcome["views"][kind]] == [[], [0], [1], [0, 1]]
        assert len(outcome["leaks"][kind]) == 1
    assert "| after 2 |" in "\n".join(sequence.tables([outcome], KINDS))
