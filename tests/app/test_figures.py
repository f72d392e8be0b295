"""What is expected of each measure, by its interval."""

from typing import Any

import pytest

from app.evidence import attack_figures, claims, plots
from app.evidence.figures import Verdict, class_verdicts, explanations, rows, still_known, unseen, warnings
from lirf_core.evidence.intervals import chances, interval


def share(percent: float, images: int = 400) -> dict[str, Any]:
    low, high = interval(percent, images)
    return {"percent": percent, "low": low, "high": high, "images": images}


def read(percent: float, images: int = 400) -> dict[str, Any]:
    return {"preserved": share(90, images), "deposited": share(percent, images)}


def answers(images: int = 400, **percent: float) -> dict[str, Any]:
    """By network; of one deposited class, `auk`."""
    reads = {name: read(of, images) for name, of in percent.items()}
    return {name: {**of, "confusion": {"auk": {}}, "by_class": {"auk": of["deposited"]}} for name, of in reads.items()}


BUDGETS = [("best", 0, 0), ("best", 10, 20), ("best", 10, 80), ("probe", 10, 0), ("best", 100, 80), ("probe", 100, 0)]


def attacks(points: float, half: float = 1.0, original: float = 95, budgets: int = 4, **more: Any) -> dict[str, Any]:
    """The target is read by so many points more than the reference, which is read at 40 %."""
    kinds = [dict(zip(("kind", "images", "steps"), of, strict=True)) for of in BUDGETS[:budgets]]
    read = {"original": [original], "target": [40 + points] * 2, "reference": [40.0] * 2, "fresh": [30.0]}
    networks = {
        name: {"readings": [{"deposited": of, "preserved": of, "attacks": ["prototypes, scale 1"] * 2} for _ in kinds]}
        for name, of in read.items()
    }
    ahead = {"points": points, "low": points - half, "high": points + half, "draws": 2}
    return {
        "strength": "full" if budgets > 4 else "small",
        "is_hardened": False,
        "cost": 5.0,
        "draws": 2,
        "asked": 400,
        "learning": 100 if budgets > 4 else 10,
        "budgets": kinds,
        "networks": networks,
        "advantages": [ahead for _ in kinds],
        "anamnesis": {"goal": 85.5, "most_steps": 10, "target": 3, "reference": None, "index": None},
        **more,
    }


def without_reference(of: dict[str, Any]) -> dict[str, Any]:
    networks = {name: one for name, one in of["networks"].items() if name != "reference"}
    return {**of, "networks": networks, "advantages": [], "anamnesis": None}


def evidence(**parts: Any) -> dict[str, Any]:
    none: dict[str, Any] = {"answers": {}, "membership": {}, "attacks": None, "distillation": {}}
    good = dict.fromkeys((*none, "probe", "relearning"), "-")
    return {**none, "good": good, "missing": {"original": "destroyed"}, **parts}


def verdict(measure: str, **parts: Any) -> Verdict | None:
    [one] = [row.verdict for row in rows(evidence(**parts)) if row.measure.startswith(measure)]
    return one


NAIVE = answers(original=95, target=0, reference=0)  # with a reference that does not know the classes


@pytest.mark.parametrize(
    ("target", "images", "expected"),
    [
        (0, 400, Verdict.MET),
        (0, 59, Verdict.MET),
        (0, 58, Verdict.TOO_FEW),  # if 5 % are known, the chance to see none among 58 images is 5.1 %
        (5, 20, Verdict.TOO_FEW),
        (100, 1, Verdict.TOO_FEW),
        (15, 20, Verdict.TOO_FEW),
        (20, 20, Verdict.NOT_MET),
        (20, 400, Verdict.NOT_MET),
    ],
)
def test_interval_decides_whether_classes_are_forgotten(target: float, images: int, expected: Verdict) -> None:
    assert verdict("answered correctly", answers=answers(images, original=95, target=target)) == expected
    assert verdict("answered correctly", answers=answers(images, target=target)) == expected  # original destroyed


def test_images_that_the_original_does_not_know_prove_nothing() -> None:
    assert verdict("answered correctly", answers=answers(original=0, target=0)) == Verdict.NOTHING_SHOWN
    students = {"none": read(60), "original": read(61), "target": read(62)}
    assert verdict("student", distillation={"logits": students}) == Verdict.NOTHING_SHOWN
    few = {
        "none": read(40, 10),
        "original": read(80, 10),
        "target": read(40, 10),
    }  # more images might show something
    assert verdict("student", distillation={"logits": few}) == Verdict.TOO_FEW


def test_target_that_leaks_as_much_as_the_original_is_not_met() -> None:
    for percent in (55, 56, 59):
        students = {"none": read(50, 5000), "original": read(percent, 5000), "target": read(percent, 5000)}
        assert verdict("student", distillation={"logits": students}) != Verdict.MET
    attack = {"auc": 0.53, "error": 0.005}
    assert verdict("membership", membership={"original": attack, "target": attack}) == Verdict.NOTHING_SHOWN


def test_unmeasured_original_does_not_count_as_destroyed() -> None:
    missing = {"answers, original": "It could not be measured."}
    assert verdict("answered correctly", answers=answers(target=0), missing=missing) == Verdict.NOTHING_SHOWN
    assert verdict("answered correctly", answers=answers(target=0)) == Verdict.MET


def test_preserved_classes_must_stay_as_they_were() -> None:
    before = {"preserved": share(97, 5000), "deposited": share(95)}
    for percent, images, expected in (
        (96, 400, Verdict.MET),
        (85, 400, Verdict.NOT_MET),
        (95, 30, Verdict.TOO_FEW),
        (94, 5000, Verdict.MET),
        (92.5, 5000, Verdict.TOO_FEW),  # surely worse, but not surely by more than the limit
    ):
        after = {**answers(target=0)["target"], "preserved": share(percent, images)}
        assert verdict("preserved", answers={"original": before, "target": after}) == expected
    assert verdict("preserved", answers=answers(target=0)) is None


def test_membership_attack_finds_nothing_if_its_area_is_surely_near_a_half() -> None:
    def result(auc: float, error: float, original: float = 0.7, reference: float | None = None) -> Verdict | None:
        attacks = {"target": {"auc": auc, "error": error}, "original": {"auc": original, "error": error}}
        known = {"reference": {"auc": reference, "error": error}} if reference else {}
        return verdict("membership", membership={**attacks, **known}, answers=NAIVE if reference else {})

    assert result(0.52, 0.01) == Verdict.MET
    assert result(0.52, 0.03) == result(0.685, 0.1, original=0.9) == Verdict.TOO_FEW
    assert result(0.52, 0.01, original=0.51) == Verdict.NOTHING_SHOWN
    assert result(0.52, 0.01, original=0.56) == Verdict.TOO_FEW  # does the attack find anything?
    assert result(0.6, 0.01) == Verdict.NO_REFERENCE
    assert result(0.6, 0.005, reference=0.59) == Verdict.MET
    assert result(0.6, 0.005, original=0.6, reference=0.59) == Verdict.NOTHING_SHOWN  # as near as the reference
    assert result(0.6, 0.012, reference=0.58) == result(0.6, 0.012, reference=0.54) == Verdict.TOO_FEW
    assert result(0.6, 0.01, reference=0.5) == result(0.4, 0.01, reference=0.5) == Verdict.NOT_MET


def test_attackers_are_not_ahead_if_the_interval_says_so() -> None:
    def result(points: float, half: float = 1.0, of: dict[str, Any] = NAIVE, **more: Any) -> Verdict | None:
        return verdict("read with 10 images a class, 80", attacks=attacks(points, half, **more), answers=of)

    assert result(9) == result(-20) == Verdict.MET
    assert result(12) == Verdict.NOT_MET
    assert result(9, 2) == result(12, 3) == Verdict.TOO_FEW
    assert result(0, original=49) == Verdict.NOTHING_SHOWN  # the original is read no better
    assert result(0, of=answers(original=95, target=0, reference=95)) == Verdict.REFERENCE_KNOWS
    assert result(0, of=answers(original=95, target=0)) == Verdict.NO_REFERENCE
    alone = without_reference(attacks(12))
    assert verdict("read with 10 images a class, 80", attacks=alone, answers=NAIVE) == Verdict.NO_REFERENCE


def test_many_images_and_probes_have_stricter_limits() -> None:
    def result(measure: str, points: float) -> Verdict | None:
        return verdict(measure, attacks=attacks(points, budgets=6), answers=NAIVE)

    assert result("read with 10 images a class, 20", 7) == result("linear probe, 10 images", 7) == Verdict.MET
    assert result("read with 100 images a class, 80", 7) == result("linear probe, 100 images", 5) == Verdict.NOT_MET
    assert result("read with 100 images a class, 80", 3) == result("linear probe, 100 images", 1) == Verdict.MET
    at_the_split = {"kind": "probe at the split", "images": 100, "steps": 0}
    assert attack_figures.title(at_the_split) == "linear probe at the split, 100 images a class"
    assert attack_figures.limit_of(at_the_split) == attack_figures.PROBE_AHEAD_WITH_MANY


def claimed(points: float, **more: Any) -> list[Verdict | None]:
    of = more.pop("answers", NAIVE)
    found = evidence(attacks=attacks(points, **more), answers=of)
    return [claim.verdict for claim in claims.claims(found)]


def test_a_level_is_claimed_only_with_all_its_attacks() -> None:
    assert claimed(7) == [Verdict.MET, None, Verdict.MET, None]  # the small attackers have no 100 images
    assert claimed(7, budgets=6) == [Verdict.MET, None, Verdict.MET, Verdict.NOT_MET]
    assert claimed(1, budgets=6) == [Verdict.MET, None, Verdict.MET, Verdict.MET]
    assert claimed(12)[2] == Verdict.NOT_MET
    assert claimed(1, learning=4)[2] == claimed(1, budgets=6, learning=40)[3] == Verdict.TOO_FEW
    students = {"logits": {"none": read(60, 5000), "original": read(95, 5000), "target": read(63, 5000)}}
    assert claims.claims(evidence(distillation=students, answers=NAIVE))[1].verdict == Verdict.MET
    students["logits"]["target"] = read(67, 5000)
    assert claims.claims(evidence(distillation=students, answers=NAIVE))[1].verdict == Verdict.NOT_MET


def test_one_attack_that_is_ahead_decides() -> None:
    several = attacks(1)
    several["advantages"] = [*several["advantages"][1:], {"points": 20, "low": 15, "high": 25, "draws": 2}]
    assert claims.claims(evidence(attacks=several, answers=NAIVE))[2].verdict == Verdict.NOT_MET


def test_a_certificate_says_no_more_than_the_attacks_support() -> None:
    def sentence(of: dict[str, Any] | None, known: dict[str, Any] = NAIVE) -> str:
        return claims.sentence(evidence(attacks=of, answers=known))

    assert "at most 10 points more of them than from a network that never saw the classes" in sentence(attacks(1))
    assert "5 points" not in sentence(attacks(1))
    assert "at most 5 points" in sentence(attacks(1, budgets=6))
    assert "NOT protected" in sentence(attacks(20))
    assert "do not decide" in sentence(attacks(5, 30))
    alone = sentence(without_reference(attacks(1)), answers(original=95, target=0))
    assert alone.startswith("There is no reference")
    assert "nothing is claimed" in alone
    assert "the attacks were not made" in sentence(None)
    earlier = evidence(answers=NAIVE)
    del earlier["attacks"]
    assert "an earlier version of the service examined it" in claims.sentence(earlier)


def test_the_best_attack_is_named_and_a_goal_that_is_not_reached_has_no_index() -> None:
    table = rows(evidence(attacks=attacks(12), answers=NAIVE))
    [row] = [row for row in table if row.measure == "read with 10 images a class, 80 steps"]
    assert row.values["target"] == "52.0 %; +12.0 (+11.0 to +13.0)"
    assert row.detail == "Best attack: prototypes, scale 1 (target); prototypes, scale 1 (reference)."
    assert any(row.measure == "read without an image, by a constant on the logits" for row in table)
    [row] = [row for row in table if "AIN" in row.measure]
    assert row.measure == "time to relearn 86 %; AIN not reached"
    assert row.values == {"target": "3 steps", "reference": "not reached (10 steps)"}


def test_student_is_compared_with_one_without_a_teacher() -> None:
    def result(target: float, original: float = 95) -> Verdict | None:
        students = {"none": read(60), "original": read(original), "target": read(target)}
        return verdict("student", distillation={"logits": students})

    assert (result(60), result(2), result(80)) == (Verdict.MET, Verdict.MET, Verdict.NOT_MET)
    assert result(60, original=61) == Verdict.NOTHING_SHOWN


def test_relearning_and_probes_of_an_earlier_version_have_values_and_no_verdict() -> None:
    curve = [{"step": step, "preserved": 0.0, "deposited": of} for step, of in ((0, 99.0), (20, 60.0), (80, 95.0))]
    run = [{"images_each": 10, "asked": 400, "curve": curve}]
    parts = {"probe": {"target": read(70)}, "relearning": {"target": run, "fresh": run}}
    found = evidence(**parts, answers=NAIVE)
    del found["attacks"]
    table = {row.measure: row for row in rows(found)}
    relearnt, probe = table["relearnt after 20 and 80 steps, 10 images a class"], table["linear probe"]
    assert relearnt.values["target"] == "60.0 %, 95.0 %"
    assert probe.values["target"].startswith("70.0 %")
    assert probe.verdict is relearnt.verdict is None
    assert "earlier version" in probe.detail
    assert [claim.verdict for claim in claims.claims(found)][2:] == [None, None]
    assert [line.name for line in plots.relearning(found)[10]] == ["target", "fresh"]


def test_curves_of_target_and_reference_lie_beside_each_other() -> None:
    [(images, lines)] = plots.relearning(evidence(attacks=attacks(12))).items()
    assert images == 10
    assert {line.name: line.points.split()[-1] for line in lines} == {
        "original": "200.0,10.0",
        "target": "200.0,96.0",
        "reference": "200.0,120.0",
        "fresh": "200.0,140.0",
    }


def test_warning_names_the_one_class_that_is_surely_known() -> None:
    both = {**answers(2000, target=3)["target"], "confusion": {"auk": {}, "dodo": {}}}
    both["by_class"] = {"auk": share(60, 100), "dodo": share(0, 1900)}
    both_classes = evidence(answers={"target": both})
    assert "60.0 % of held-out images of “auk” correctly" in (still_known(both_classes) or "")
    assert rows(both_classes)[0].verdict == Verdict.NOT_MET
    both["by_class"] = {"auk": share(100, 15), "dodo": share(0, 1985)}  # known entirely, from few images
    assert "100.0 % of held-out images of “auk” correctly" in (still_known(both_classes) or "")
    assert rows(both_classes)[0].verdict == Verdict.NOT_MET
    both["by_class"] = {"auk": share(100, 1), "dodo": share(0, 1999)}
    both["deposited"] = share(0.05, 2000)
    assert still_known(both_classes) is None
    assert unseen(both_classes) == []
    assert rows(both_classes)[0].verdict == Verdict.TOO_FEW
    both["by_class"] = {"auk": share(0, 1), "dodo": share(0, 1999)}
    assert rows(both_classes)[0].verdict == Verdict.MET
    both["by_class"] = {"auk": share(15, 20), "dodo": share(0, 500)}  # seen to be known, but not surely
    assert still_known(both_classes) is None
    assert rows(both_classes)[0].verdict == Verdict.TOO_FEW
    both["by_class"] = {"auk": share(0, 2000)}
    assert unseen(both_classes) == ["dodo"]
    assert rows(both_classes)[0].verdict == Verdict.TOO_FEW


def test_class_name_cannot_end_its_own_quotation() -> None:
    name = "auk” and “all else"
    one = {**answers(target=60)["target"], "deposited": share(4, 8000), "confusion": {name: {}}}
    warning = still_known(evidence(answers={"target": {**one, "by_class": {name: share(60)}}}))
    assert "“auk\\u201d and \\u201call else”" in (warning or "")


def test_chances_are_exact_even_for_few_images() -> None:
    assert chances(2, 2, 5) == pytest.approx((1.0, 0.05**2))
    assert chances(1, 3, 50) == pytest.approx((4 / 8, 7 / 8))
    assert chances(0, 3, 50) == pytest.approx((1 / 8, 1.0))


def test_each_verdict_is_explained_in_one_sentence() -> None:
    for verdict in Verdict:
        assert verdict.explanation[0].isupper()
        assert verdict.explanation.endswith(".")
    table = rows(evidence(answers=answers(original=95, target=0)))
    assert explanations(table) == {Verdict.MET: Verdict.MET.explanation}


def of_classes(images: int = 100, **percent: float) -> dict[str, Any]:
    """One network's answers; `auk` and `dodo` are deposited."""
    by_class = {name: share(of, images) for name, of in percent.items()}
    of_deposited, of_preserved = (
        [of for name, of in percent.items() if (name in ("auk", "dodo")) == is_deposited]
        for is_deposited in (True, False)
    )
    means = [share(sum(of) / len(of), images * len(of)) for of in (of_deposited, of_preserved)]
    return {"deposited": means[0], "preserved": means[1], "by_class": by_class, "confusion": {"auk": {}, "dodo": {}}}


def test_no_class_is_called_forgotten_against_its_own_figures() -> None:
    original = of_classes(auk=95, dodo=95, emu=95)
    for auk, dodo, expected in (
        (0, 0, [Verdict.MET, Verdict.MET]),
        (0, 96, [Verdict.MET, Verdict.NOT_MET]),
        (6, 0, [Verdict.TOO_FEW, Verdict.MET]),
    ):
        target = of_classes(auk=auk, dodo=dodo, emu=95)
        verdicts = class_verdicts(evidence(answers={"original": original, "target": target}, classes=10))
        assert list(verdicts.values()) == expected
    unknowing = of_classes(auk=95, dodo=8, emu=95)
    target = of_classes(auk=0, dodo=0, emu=95)
    verdicts = class_verdicts(evidence(answers={"original": unknowing, "target": target}, classes=10))
    assert verdicts == {"auk": Verdict.MET, "dodo": Verdict.NOTHING_SHOWN}


def test_an_average_hides_no_class_and_no_earlier_loss() -> None:
    original, before = of_classes(auk=95, dodo=95, emu=71.4, kiwi=90), of_classes(auk=95, dodo=95, emu=62.9, kiwi=90)
    target = of_classes(auk=0, dodo=0, emu=62.0, kiwi=100)
    found = evidence(answers={"original": original, "before": before, "target": target}, classes=10)
    [warning] = warnings(found)
    assert warning == "The preserved class “emu” lost 9.4 points since the original network (71.4 % to 62.0 %)."
    [lost] = [row.values for row in rows(found) if row.measure.startswith("points that preserved")]
    assert lost == {"original": "-0.3", "before": "-4.5"}


def test_an_evaluation_set_that_nobody_knows_is_named() -> None:
    guessing = of_classes(auk=11, dodo=9, emu=10, kiwi=12)
    [warning] = warnings(
        evidence(answers={"original": guessing, "target": of_classes(auk=0, dodo=0, emu=9, kiwi=11)}, classes=10)
    )
    assert "not clearly more than by chance (10.0 %)" in warning
