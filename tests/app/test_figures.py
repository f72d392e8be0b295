"""What is expected of each measure, by its interval."""

from typing import Any

import pytest

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


def run(*right: float, asked: int = 400) -> list[dict[str, Any]]:
    """Percent of the deposited images after 5, 20 and 80 steps."""
    curve = [{"step": 0, "preserved": 0.0, "deposited": 99.0}]
    curve += [{"step": step, "preserved": 0.0, "deposited": of} for step, of in zip((5, 20, 80), right, strict=True)]
    return [{"images_each": 10, "asked": asked, "curve": curve}]


def evidence(**parts: Any) -> dict[str, Any]:
    none: dict[str, Any] = {"answers": {}, "membership": {}, "probe": {}, "relearning": {}, "distillation": {}}
    good = dict.fromkeys(none, "-")
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


def test_probe_needs_a_reference_that_does_not_know_the_classes() -> None:
    def result(target: float, images: int = 400, of: dict[str, Any] = NAIVE) -> Verdict | None:
        probe = {"original": read(99, images), "target": read(target, images), "reference": read(70, images)}
        return verdict("linear probe", probe=probe, answers=of)

    assert result(70) == result(60) == Verdict.MET
    assert result(90) == Verdict.NOT_MET
    assert result(85) == Verdict.TOO_FEW  # surely more, but not surely by more than the limit
    assert result(72, images=60) == Verdict.TOO_FEW
    probe = {"original": read(99), "target": read(70)}  # the reference could not be measured
    assert verdict("linear probe", probe=probe, answers=NAIVE) == Verdict.NO_REFERENCE
    assert result(70, of=answers(original=95, target=0)) == Verdict.NO_REFERENCE
    assert result(70, of=answers(original=95, target=0, reference=95)) == Verdict.REFERENCE_KNOWS
    nothing = {"original": read(70), "target": read(70), "reference": read(70)}
    assert verdict("linear probe", probe=nothing, answers=NAIVE) == Verdict.NOTHING_SHOWN


def test_student_is_compared_with_one_without_a_teacher() -> None:
    def result(target: float, original: float = 95) -> Verdict | None:
        students = {"none": read(60), "original": read(original), "target": read(target)}
        return verdict("student", distillation={"logits": students})

    assert (result(60), result(2), result(80)) == (Verdict.MET, Verdict.MET, Verdict.NOT_MET)
    assert result(60, original=61) == Verdict.NOTHING_SHOWN


def test_target_must_never_relearn_sooner_than_a_reference_or_fresh_network() -> None:
    def result(target: list[dict[str, Any]], *more: list[dict[str, Any]], of: dict[str, Any] = NAIVE) -> Verdict | None:
        runs = dict(zip(("fresh", "reference"), more, strict=False))
        return verdict("relearnt", relearning={"target": target, **runs}, answers=of)

    assert result(run(5, 60, 95, asked=1000), run(2, 58, 94), run(0, 57, 92)) == Verdict.MET
    assert result(run(5, 60, 95), run(2, 57, 94), run(0, 55, 92)) == Verdict.TOO_FEW
    assert result(run(5, 60, 95, asked=40), run(2, 57, 94), run(0, 55, 92)) == Verdict.TOO_FEW
    assert result(run(5, 75, 95, asked=100), run(2, 60, 94), run(0, 55, 92)) == Verdict.TOO_FEW  # perhaps by chance
    assert result(run(5, 50, 75, asked=4), run(2, 50, 50), run(0, 50, 50)) == Verdict.TOO_FEW
    assert result(run(95, 96, 96), run(0, 88, 94), run(0, 90, 94)) == Verdict.NOT_MET  # hidden: at once
    assert result(run(5, 60, 95), run(2, 57, 94), run(0, 0, 92)) == Verdict.NOT_MET
    no_reference = answers(original=95, target=0)
    assert result(run(5, 60, 95), run(2, 57, 94), of=no_reference) == Verdict.NO_REFERENCE
    assert result(run(5, 60, 95, asked=1000), run(2, 58, 94)) == Verdict.NO_REFERENCE  # it could not be measured
    assert result(run(5, 90, 95), run(2, 57, 94), of=no_reference) == Verdict.NOT_MET


def test_relearning_from_an_earlier_version_shows_values_without_a_verdict() -> None:
    before = {key: value for key, value in run(5, 60, 95)[0].items() if key != "asked"}
    [row] = [
        row for row in rows(evidence(relearning={"target": [before], "fresh": [before]})) if "relearnt" in row.measure
    ]
    assert (row.verdict, row.values["target"]) == (None, "60.0 %, 95.0 %")


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
