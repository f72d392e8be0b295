"""What is said of each measure, by its interval."""

from typing import Any

import pytest

from app.evidence.figures import Verdict, rows, still_known, unseen


def share(percent: float, low: float, high: float) -> dict[str, Any]:
    return {"percent": percent, "low": low, "high": high, "images": 100}


def read(percent: float, low: float, high: float) -> dict[str, Any]:
    return {"preserved": share(90, 85, 95), "deposited": share(percent, low, high)}


def run(*right: float) -> list[dict[str, Any]]:
    curve = [{"step": step, "preserved": 0.0, "deposited": of} for step, of in zip((20, 80), right, strict=True)]
    return [{"images_each": 10, "curve": curve}]


def found(**parts: Any) -> dict[str, Any]:
    none: dict[str, Any] = {"answers": {}, "membership": {}, "probe": {}, "relearning": {}, "distillation": {}}
    good = dict.fromkeys(none, "-")
    return {**none, "good": good, **parts}


def verdict(measure: str, **parts: Any) -> Verdict | None:
    [one] = [row.verdict for row in rows(found(**parts)) if row.measure.startswith(measure)]
    return one


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.0, 4.9, Verdict.MET), (0.0, 16.0, Verdict.TOO_FEW), (5.1, 20.0, Verdict.NOT_MET)],
)
def test_forgotten_is_said_by_the_interval(low: float, high: float, said: Verdict) -> None:
    answers = {"target": read(low, low, high)}
    assert verdict("answered rightly", answers=answers) == said


def test_preserved_classes_are_to_be_as_before() -> None:
    before = {"preserved": share(97, 95, 98), "deposited": None}
    for low, high, said in ((94, 96, Verdict.MET), (90, 94, Verdict.NOT_MET)):
        target = {"preserved": share(92, low, high), "deposited": None}
        assert verdict("preserved", answers={"original": before, "target": target}) == said
    assert verdict("preserved", answers={"target": before}) is None  # the original was destroyed


def test_a_membership_attack_that_guesses_has_found_nothing() -> None:
    def said(auc: float, error: float, reference: float | None = None) -> Verdict | None:
        known = {"reference": {"auc": reference, "error": error}} if reference else {}
        return verdict("membership", membership={"target": {"auc": auc, "error": error}, **known})

    assert said(0.52, 0.02) == Verdict.MET
    assert said(0.6, 0.02) == Verdict.NO_REFERENCE
    assert said(0.6, 0.02, 0.58) == Verdict.MET
    assert said(0.6, 0.02, 0.5) == said(0.4, 0.02, 0.5) == Verdict.NOT_MET
    assert said(0.6, 0.2) == Verdict.TOO_FEW


def test_a_probe_wants_a_reference_and_a_student_one_without_a_teacher() -> None:
    assert verdict("linear probe", probe={"target": read(90, 85, 94)}) == Verdict.NO_REFERENCE
    for low, high, said in ((80, 86, Verdict.MET), (95, 99, Verdict.NOT_MET), (20, 90, Verdict.TOO_FEW)):
        both = {"target": read(low, low, high), "reference": read(90, 85, 94)}
        assert verdict("linear probe", probe=both) == said
        students = {"target": read(low, low, high), "none": read(90, 85, 94)}
        assert verdict("student", distillation={"logits": students}) == said


def test_relearning_is_no_sooner_than_the_references_or_else_a_fresh_networks() -> None:
    assert verdict("relearnt", relearning={"target": run(65, 95), "fresh": run(57, 94)}) == Verdict.MET
    assert verdict("relearnt", relearning={"target": run(100, 95), "fresh": run(57, 94)}) == Verdict.NOT_MET
    three = {"target": run(60, 95), "fresh": run(57, 94), "reference": run(0, 92)}
    assert verdict("relearnt", relearning=three) == Verdict.NOT_MET
    assert verdict("relearnt", relearning={"target": run(0, 0)}) is None


def test_one_class_that_is_surely_known_is_told_and_one_that_was_not_seen_is_named() -> None:
    confusion: dict[str, Any] = {"auk": {}, "dodo": {}}
    target = {**read(4, 2, 6), "confusion": confusion, "by_class": {"auk": share(8, 5.5, 12)}}
    told = found(answers={"target": target})
    assert "8.0 %" in (still_known(told) or "")
    assert unseen(told) == ["dodo"]
    target["by_class"] = {"auk": share(8, 4, 12), "dodo": share(0, 0, 5)}
    assert still_known(told) is None
    assert unseen(told) == []
