"""The attacks on networks of which it is known what they know."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from demo.digits import AUGMENTATION, PREPROCESSING, Digits
from lirf_core.architectures import build
from lirf_core.class_rows import last_layer, without_rows
from lirf_core.evidence.answers import CannotBeMeasured
from lirf_core.evidence.attacks.anamnesis import anamnesis_index, relearning_time
from lirf_core.evidence.attacks.attacker import Attacker
from lirf_core.evidence.attacks.config import AttackConfig
from lirf_core.evidence.attacks.readout import learnt_rows, ridge
from lirf_core.evidence.attacks.statistic import Accuracies, accuracies, advantage, bias_at
from lirf_core.evidence.attacks.suite import Attacked, attacked, best
from lirf_core.evidence.attacks.training_free import prototypes, with_statistics_of
from lirf_core.evidence.images import Labelled, halves
from lirf_core.network import SplitNetwork, freeze
from tests.lirf_core.factories import CPU

DEPOSITED, PRESERVED = [0, 1, 2], [3, 4, 5, 6, 7, 8, 9]
QUICK = AttackConfig(
    images=(5,), probe_images=(5,), penalties=(10.0,), heads=("prototypes",), learning_rates=(0.01,), steps=(5,)
)


@pytest.fixture(scope="module")
def attacker(digits: Digits) -> Attacker:
    learning = Labelled(*digits.tensors(digits.training)).first_of_each(20)
    tuning, questions = halves(Labelled(*digits.tensors(digits.held_out)), seed=0)
    return Attacker(learning, tuning, questions, DEPOSITED, PRESERVED, PREPROCESSING, AUGMENTATION, CPU, CPU)


def suppressed(network: SplitNetwork) -> SplitNetwork:
    """It answers no deposited class, and knows every one of them."""
    hidden = copy.deepcopy(network)
    with torch.no_grad():
        last_layer(hidden.upper).bias[DEPOSITED] -= 100
    return hidden


def figures(found: Attacked) -> dict[str, float]:
    return {one.attack: max(one.at_cost.deposited, 0) for one in found.attempts}


def test_the_constant_is_the_best_of_all_constants() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (60,), generator=generator)
    logits = torch.randn(60, 5, generator=generator) + 2 * nn.functional.one_hot(labels, 5)
    margins = (logits[:, :2].amax(1) - logits[:, 2:].amax(1)).double()
    edges = (-margins).sort().values
    candidates = [-math.inf, *((left + right).item() / 2 for left, right in pairwise(edges)), math.inf]
    for floor in (0.0, 20.0, 55.5, 70.0, 80.0):
        possible = [accuracies(logits, labels, [0, 1], one) for one in candidates]
        highest = max((one.deposited for one in possible if one.preserved >= floor), default=0.0)
        chosen = accuracies(logits, labels, [0, 1], bias_at(logits, labels, [0, 1], floor))
        assert chosen.deposited == highest
        assert chosen.preserved >= floor


def test_a_preserved_accuracy_that_no_constant_reaches_gives_nothing() -> None:
    logits, labels = torch.eye(4), torch.tensor([0, 1, 3, 2])
    assert bias_at(logits, labels, [0, 1], 1.0) == -math.inf
    assert accuracies(logits, labels, [0, 1], -math.inf).deposited == 0
    assert bias_at(logits, labels, [0, 1], 0.0) == math.inf


def test_both_parts_need_images() -> None:
    with pytest.raises(CannotBeMeasured, match="no image of a preserved class"):
        bias_at(torch.eye(2), torch.tensor([0, 0]), [0], 50.0)
    with pytest.raises(CannotBeMeasured, match="deposited and of preserved"):
        accuracies(torch.eye(2), torch.tensor([1, 1]), [0])


def test_a_random_network_seems_good_by_its_head_alone_and_is_not(attacker: Attacker) -> None:
    """It answers deposited classes alone, so chance answers every third deposited image correctly."""
    labels = attacker.questions.labels
    logits = torch.randn(len(labels), 10, generator=torch.Generator().manual_seed(0))
    logits[:, DEPOSITED] += 100
    seeming = accuracies(logits, labels, DEPOSITED)
    assert seeming.deposited > 20
    assert seeming.preserved == 0
    # Now it answers every preserved image correctly, and takes each deposited one for a preserved class.
    taken_for = torch.where(labels < len(DEPOSITED), labels + 3, labels)
    logits += 200 * nn.functional.one_hot(taken_for, 10)
    assert accuracies(logits, labels, DEPOSITED) == Accuracies(0, 100)
    assert accuracies(logits, labels, DEPOSITED, bias_at(logits, labels, DEPOSITED, 95.0)).deposited < 10


def test_a_constant_alone_reads_what_only_the_head_hides(attacker: Attacker, digits_network: SplitNetwork) -> None:
    open_, hidden = (
        attacked(network, range(10), attacker, QUICK) for network in (digits_network, suppressed(digits_network))
    )
    assert hidden.before.deposited == 0
    assert hidden.before.preserved >= open_.before.preserved
    assert open_.attempts[0].attack == hidden.attempts[0].attack == "bias"
    assert hidden.attempts[0].at_cost.deposited == open_.attempts[0].at_cost.deposited >= 95


def test_without_rows_a_constant_reads_nothing_and_prototypes_do(
    attacker: Attacker, digits_network: SplitNetwork
) -> None:
    found = attacked(without_rows(digits_network, PRESERVED), PRESERVED, attacker, QUICK)
    by_attack = figures(found)
    assert by_attack["bias"] <= 100 / 3  # the three rows are the same, so at best one class is answered
    assert by_attack["prototypes"] >= 80
    assert by_attack["fine-tuning, head prototypes"] >= 80
    assert by_attack["fine-tuning, preserved images alone"] <= 100 / 3


def test_attacks_at_the_split_read_what_the_upper_part_hides(attacker: Attacker, digits_network: SplitNetwork) -> None:
    hidden = copy.deepcopy(digits_network)
    hidden.upper.layer4.register_forward_hook(lambda _, inputs, output: torch.zeros_like(output))
    found = attacked(hidden, range(10), attacker, replace(QUICK, heads=()))
    read = {one.attack: one.plain.deposited for one in found.attempts}
    assert read["logistic probe"] <= 100 / 3 + 1
    assert read["logistic probe at the split"] >= 80


def test_every_attack_reads_less_from_an_untrained_network(attacker: Attacker, digits_network: SplitNetwork) -> None:
    from demo.digits import SPEC

    torch.manual_seed(0)
    fresh = build(SPEC)
    freeze(fresh)
    unknowing, knowing = (figures(attacked(one, range(10), attacker, QUICK)) for one in (fresh, digits_network))
    assert unknowing.keys() == knowing.keys()
    assert set(knowing) == {
        "bias",
        "learnt rows",
        "learnt rows at the split",
        "ridge probe",
        "logistic probe",
        "ridge probe at the split",
        "logistic probe at the split",
        "prototypes",
        "prototypes at the split",
        "batch norm",
        "batch norm, prototypes",
        "batch norm, prototypes at the split",
        "fine-tuning, head prototypes",
        "fine-tuning, preserved images alone",
    }
    del knowing["ridge probe at the split"]  # of five images, it answers too few preserved ones on some machines
    assert all(unknowing[name] < knowing[name] for name in knowing)


def test_the_attacker_chooses_by_their_own_images(attacker: Attacker, digits_network: SplitNetwork) -> None:
    found = attacked(digits_network, range(10), attacker, replace(QUICK, steps=(1, 5)))
    within = [one for one in found.attempts if one.images <= 5 and one.steps <= 1]
    assert {one.steps for one in found.attempts} == {0, 1, 5}
    assert best(found.attempts, 5, 1).tuned == max(one.tuned for one in within)
    assert best(found.attempts, 0, 0).attack == "bias"
    with pytest.raises(CannotBeMeasured):
        best([], 5, 1)


def test_a_learning_rate_that_diverges_leaves_the_other_attempts(
    attacker: Attacker, digits_network: SplitNetwork
) -> None:
    found = attacked(digits_network, range(10), attacker, replace(QUICK, learning_rates=(1e30,)))
    assert "prototypes" in figures(found)
    assert not [one for one in found.attempts if one.steps]


def test_wrong_statistics_hide_nothing(attacker: Attacker, digits_network: SplitNetwork) -> None:
    hidden = copy.deepcopy(digits_network)
    for module in hidden.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean += 3
    pixels, labels = attacker.few(20)
    moved = with_statistics_of(hidden, pixels, PREPROCESSING, CPU)
    assert moved is not None
    wrong, right = (accuracies(attacker.ask(one, pixels).logits, labels, DEPOSITED) for one in (hidden, moved))
    assert wrong.deposited < 60
    assert right.deposited > 90


def test_a_network_without_batch_norm_has_no_statistics_to_move() -> None:
    plain = SplitNetwork(nn.Sequential(nn.Conv2d(1, 2, 1)), nn.Sequential(nn.Flatten(), nn.Linear(128, 3)))
    assert with_statistics_of(plain, torch.zeros(2, 1, 8, 8, dtype=torch.uint8), PREPROCESSING, CPU) is None


def test_a_prototype_is_the_direction_of_its_class() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 5.0]])
    assert torch.allclose(prototypes(features, torch.tensor([0, 1, 1]), [0, 1]), torch.eye(2))


def test_ridge_has_the_values_of_scikit_learn() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 6, generator=generator), torch.arange(40) % 3
    scaled = StandardScaler().fit_transform(features.double().numpy())
    expected = Ridge(alpha=10.0).fit(scaled, nn.functional.one_hot(labels).double().numpy()).predict(scaled)
    (scores,) = ridge((features, labels), [features], 3, 10.0)
    assert torch.allclose(scores, torch.from_numpy(expected), atol=1e-6)


def test_one_learnt_row_beside_another_has_the_values_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 6, generator=generator), torch.arange(60) % 2
    scaled = StandardScaler().fit_transform(features.double().numpy())
    expected = LogisticRegression(C=0.1, tol=1e-8).fit(scaled, labels.numpy()).decision_function(scaled)
    preserved = torch.zeros(60, 2)  # of class 0; what stands in the column of class 1 must not matter
    preserved[:, 1] = 50.0
    [logits] = learnt_rows((features, preserved, labels), [(features, preserved)], [1], 10.0)
    assert logits[:, 0].tolist() == [0.0] * 60
    assert torch.allclose(logits[:, 1], torch.from_numpy(expected), atol=1e-4)


def test_an_advantage_is_paired_over_draws() -> None:
    found = advantage([50.0, 60.0, 70.0], [45.0, 54.0, 66.0])
    assert found.points == 5
    assert (found.low, found.high) == pytest.approx((5 - 4.3027 / 3**0.5, 5 + 4.3027 / 3**0.5), abs=1e-3)
    assert advantage([50.0], [45.0]).high == math.inf


def test_a_network_that_knows_relearns_at_once(attacker: Attacker, digits_network: SplitNetwork) -> None:
    steps = relearning_time(digits_network, attacker, 80.0, 5)
    hidden = relearning_time(suppressed(digits_network), attacker, 0.0, 5)
    assert (steps, hidden) == (0, 0)
    assert anamnesis_index(2, 20) == pytest.approx(0.1)
    assert anamnesis_index(0, 0) == 1


def test_a_goal_that_is_never_reached_has_no_time_and_no_index(
    attacker: Attacker, digits_network: SplitNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lirf_core.evidence.attacks.anamnesis.MOST_EPOCHS", 1)
    assert relearning_time(digits_network, attacker, 101.0, 5) is None
    assert anamnesis_index(None, 10) is anamnesis_index(10, None) is None
