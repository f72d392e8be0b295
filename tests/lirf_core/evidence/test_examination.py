"""Evidence of a network that has forgotten, and of one that only says so."""

import copy
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch

from lirf_core.architectures import build, default_split
from lirf_core.evidence import examination
from lirf_core.evidence import images as image_selection
from lirf_core.evidence.attacks.suite import Suite
from lirf_core.evidence.distillation import features_at_split, plain_cnn, train_student
from lirf_core.evidence.embedding import embedding
from lirf_core.evidence.examination import Case, Examination, Networks
from lirf_core.evidence.images import Labelled, halves, sides
from lirf_core.evidence.membership import attack
from lirf_core.evidence.results import PARTS, Evidence
from lirf_core.images.preprocessing import Augmentation
from lirf_core.metrics import logits_of
from lirf_core.network import SplitNetwork
from lirf_core.pretraining import train_original
from tests.lirf_core.attackers import short_attacks
from tests.lirf_core.factories import CPU, PREPROCESSING, SPEC, deposit_of, images, network

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def short() -> Iterator[None]:
    """These tests are not about the accuracy of students and attackers."""
    with short_attacks(steps=10):
        yield


CLASSES = ["auk", "dodo", "emu", "heron", "kiwi"]
EVERY = [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def original() -> SplitNetwork:
    seen = images(300, EVERY, seed=5)
    return train_original(SPEC, *seen, PREPROCESSING, CPU, epochs=12, augmentation=Augmentation(0, False), seed=0)


@pytest.fixture(scope="module")
def reference() -> SplitNetwork:
    """Trained on the preserved classes only."""
    seen = images(300, [2, 3, 4], seed=5)
    return train_original(SPEC, *seen, PREPROCESSING, CPU, epochs=12, augmentation=Augmentation(0, False), seed=0)


def case(held_out: int = 200, members: Labelled | None = None) -> Case:
    labelled = Labelled(*images(held_out, EVERY, seed=1))
    return Case(CLASSES, [0, 1], [2, 3, 4], labelled, members, PREPROCESSING, Augmentation(0, False))


def fresh() -> SplitNetwork:
    torch.manual_seed(3)
    return build(SPEC, "layer2")


def only(monkeypatch: pytest.MonkeyPatch, *parts: str) -> None:
    """Leave out all other parts."""
    why_not = Examination._why_not
    monkeypatch.setattr(Examination, "_why_not", lambda self, one: why_not(self, one) if one in parts else "-")


@pytest.fixture(scope="module")
def examined(original: SplitNetwork, reference: SplitNetwork) -> tuple[Evidence, list[str]]:
    """The evidence and the part of each step. The target knows nothing of the deposited classes."""
    steps: list[str] = []

    def on_step(part: str, piece: str) -> None:
        steps.append(f"{part}: {piece}")

    module = deposit_of(original, PREPROCESSING).module
    networks = Networks(reference, fresh(), original, module, reference=reference)
    members = Labelled(*images(100, [0, 1], seed=5))
    return Examination(networks, case(members=members), CPU, CPU, on_step).run(), steps


def test_every_part_is_examined_in_order(examined: tuple[Evidence, list[str]]) -> None:
    evidence, steps = examined
    assert list(dict.fromkeys(step.split(":")[0] for step in steps)) == list(PARTS)
    assert {f"attacks: {name}" for name in ("original, attacker 1", "target, attacker 2", "reference, attacker 2")} < {
        *steps
    }
    assert evidence.missing == {}
    assert evidence.good.keys() == set(PARTS)
    assert all(asdict(evidence)[part] for part in PARTS)
    assert evidence.images == {"held_out": 200, "attackers": 100, "asked": 100, "members": 100}


def test_the_evidence_distinguishes_a_network_that_knows_the_classes(examined: tuple[Evidence, list[str]]) -> None:
    evidence, _ = examined
    of_original, of_target = evidence.answers["original"].deposited, evidence.answers["target"].deposited
    assert of_original is not None
    assert of_target is not None
    assert of_original.low > 60
    assert of_target.percent == 0.0
    attacks = evidence.attacks
    assert attacks is not None
    without_images = {name: attacked.readings[0].deposited[0] for name, attacked in attacks.networks.items()}
    assert without_images["original"] > 60 > without_images["target"]
    assert all(ahead.points == 0 for ahead in attacks.advantages)  # the reference is the same network
    assert attacks.anamnesis is not None
    assert attacks.anamnesis.target == attacks.anamnesis.reference
    assert abs(evidence.membership["target"].auc - 0.5) < 3 * evidence.membership["target"].error


def test_a_served_network_is_attacked_in_place_of_the_target(
    original: SplitNetwork, reference: SplitNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target knows everything; what is served knows nothing, so it is as good as the reference."""
    only(monkeypatch, "attacks")
    networks = Networks(original, fresh(), original, reference=reference, served=reference)
    attacks = Examination(networks, case(), CPU, CPU).run().attacks
    assert attacks is not None
    assert attacks.networks["target"] == attacks.networks["reference"]


def test_missing_parts_say_why_they_were_not_measured(original: SplitNetwork) -> None:
    preserved_only = replace(case(), held_out=Labelled(*images(30, [2, 3, 4])))
    evidence = Examination(Networks(original, fresh()), preserved_only, CPU, CPU).run()
    assert all("no image of the deposited classes" in evidence.missing[part] for part in PARTS if part != "membership")
    assert evidence.answers == {}
    assert "destroyed" in evidence.missing["original"]


def test_a_diverging_training_does_not_count_as_forgetting(
    original: SplitNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student without a teacher fails, with which all others are compared."""
    monkeypatch.setattr(examination, "train_student", partial(train_student, learning_rate=1e9))
    only(monkeypatch, "distillation")
    evidence = Examination(Networks(original, fresh(), original), case(), CPU, CPU).run()
    assert "not finite numbers" in evidence.missing["distillation"]
    assert not evidence.distillation


def test_a_reference_without_finite_answers_does_not_hide_the_other_figures(original: SplitNetwork) -> None:
    broken = copy.deepcopy(original)
    with torch.no_grad():
        next(broken.lower.parameters()).fill_(float("nan"))
    members = Labelled(*images(100, [0, 1], seed=5))
    networks = Networks(original, fresh(), original, reference=broken)
    evidence = Examination(networks, case(members=members), CPU, CPU).run()
    for part in ("answers", "membership"):
        assert getattr(evidence, part).keys() == {"target", "original"}
        assert "not finite numbers" in evidence.missing[f"{part}, reference"]
    assert evidence.attacks is not None
    assert evidence.attacks.networks.keys() == {"original", "target", "fresh"}
    assert evidence.attacks.advantages == []
    assert "not finite numbers" in evidence.missing["attacks, reference"]
    assert evidence.distillation["logits"].keys() == {"none", "original", "target"}


def test_the_attackers_half_and_the_questions_share_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1)
    attackers, questions = halves(Labelled(pixels, torch.arange(100) % 3), seed=0)
    own, other = set(attackers.images().flatten().tolist()), set(questions.images().flatten().tolist())
    assert not own & other
    assert own | other == set(range(100))
    assert attackers.labels.bincount().tolist() == [17, 16, 16]
    monkeypatch.setattr(image_selection, "ATTACK_EACH", 5)
    assert [len(half) for half in halves(Labelled(pixels, torch.arange(100) % 3), seed=0)] == [15, 15]


def test_both_sides_of_a_membership_attack_have_equally_many_images_of_each_class() -> None:
    members = Labelled(torch.zeros(110, 1, 1, 1, dtype=torch.uint8), torch.tensor([0] * 90 + [1] * 10 + [2] * 10))
    strangers = Labelled(torch.zeros(40, 1, 1, 1, dtype=torch.uint8), torch.tensor([0] * 20 + [1] * 20))
    of_members, of_strangers = sides(members, strangers)
    assert of_members.labels.bincount().tolist() == of_strangers.labels.bincount().tolist() == [20, 10]


def test_a_class_with_one_image_is_in_neither_half() -> None:
    both = halves(Labelled(torch.zeros(5, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1, 0, 2, 2])), seed=0)
    assert [half.classes() for half in both] == [[0, 2], [0, 2]]


def test_images_are_selected_by_number_and_answered_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_selection, "BATCH", 4)
    source = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1)
    some = Labelled(source, torch.arange(20) % 4).of_classes([1, 3])
    again = some.of_classes([3])
    assert again.images().flatten().tolist() == [3, 7, 11, 15, 19]
    assert some.first_of_each(2).images().flatten().tolist() == [1, 3, 5, 7]
    batches: list[int] = []

    def answer(images: torch.Tensor) -> torch.Tensor:
        batches.append(len(images))
        return images.flatten().long()

    assert again.ask(answer).tolist() == [3, 7, 11, 15, 19]
    assert batches == [4, 1]
    assert again.source is source


def test_classes_with_no_or_few_held_out_images_are_named(
    original: SplitNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch)
    held_out = Labelled(*images(100, [0, 2, 3, 4], seed=1))
    without_dodo = replace(case(), held_out=held_out)
    missing = Examination(Networks(original, fresh()), without_dodo, CPU, CPU).run().missing["classes"]
    assert "No held-out image of dodo" in missing
    few = replace(case(), deposited=[0], held_out=held_out.first_of_each(5))
    missing = Examination(Networks(original, fresh()), few, CPU, CPU).run().missing["classes"]
    assert missing == "Fewer than 20 held-out images of auk, so the figures say little."


def test_an_area_of_one_has_an_error_and_nan_is_refused() -> None:
    few, many = (attack(torch.ones(count), torch.zeros(count)) for count in (3, 300))
    assert few.auc == many.auc == 1.0
    assert few.error > 0.1
    assert 0 < many.error < 0.01
    with pytest.raises(ValueError, match="not finite numbers"):
        attack(torch.tensor([1.0, torch.nan]), torch.zeros(2))


def test_a_failing_part_is_missing_and_the_others_are_measured(
    original: SplitNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    only(monkeypatch, "answers", "attacks", "embedding")
    monkeypatch.setattr(Suite, "run", fails)
    evidence = Examination(Networks(original, fresh()), case(60), CPU, CPU).run()
    assert evidence.missing["attacks"] == "The device has too little memory for it."
    assert evidence.answers
    assert evidence.embedding


def test_equal_or_nan_features_have_a_picture_and_do_not_crash() -> None:
    for features in (torch.ones(12, 16), torch.zeros(12, 16), torch.full((12, 16), torch.nan)):
        assert set(embedding(features)) == {(0.0, 0.0)}
    assert len(set(embedding(torch.randn(12, 16)))) == 12


def test_an_examination_does_not_change_the_networks(original: SplitNetwork) -> None:
    split = default_split(SPEC.name)
    others = network(split=split), network(1, split=split)
    networks = Networks(*others, original, deposit_of(original, PREPROCESSING).module)
    before = [copy.deepcopy(one.state_dict()) for one in (networks.target, networks.fresh, original, networks.module)]
    state = torch.get_rng_state()
    Examination(networks, case(80), CPU, CPU).run()
    after = [one.state_dict() for one in (networks.target, networks.fresh, original, networks.module)]
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert torch.equal(state, torch.get_rng_state())


def test_a_student_learns_from_its_teacher_beyond_its_labels(original: SplitNetwork) -> None:
    """Half of its labels are wrong, but the teacher's answers are right."""
    training, (pixels, labels) = images(200, EVERY, seed=8), images(100, EVERY, seed=9)
    wrong = torch.where(torch.arange(200) % 2 == 0, training[1], (training[1] + 1) % 5)

    def accuracy(teacher: SplitNetwork | None) -> float:
        torch.manual_seed(0)
        student = plain_cnn(1, 5, features_at_split(original, PREPROCESSING))
        trained = train_student(
            student, teacher, training[0], wrong, PREPROCESSING, Augmentation(0, False), CPU, "logits", 12, 64
        )
        return (logits_of(trained, pixels, PREPROCESSING, CPU).argmax(1) == labels).float().mean().item()

    assert accuracy(original) > accuracy(None)


def test_a_student_has_features_of_any_size_that_its_teacher_has() -> None:
    student = plain_cnn(3, 10, (24, 5, 7))
    assert student.lower(torch.zeros(2, 3, 16, 16)).shape == (2, 24, 5, 7)
    assert student(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
