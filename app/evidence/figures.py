"""The figures of evidence as a table that people read: console, certificate and command line."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lirf_core.evidence.intervals import MANY, chance_of_more, interval

FORGOTTEN = 5.0  # percent of a deposited class that a target may still answer rightly and be said to have forgotten it
NETWORKS = ("original", "target", "recover", "reference", "fresh")
KEPT, AHEAD, APART = 5.0, 10.0, 0.05  # points of preserved and of deposited classes, and area, that are no difference
GUESS = {"auc": 0.5, "error": 0.0}
TAIL = 0.025  # on each side of an interval
ADVICE = "Too few steps, or too few images: next time more epochs, a smaller batch size or a later split."
RULES = (
    f"met: with 95 %, at most {FORGOTTEN:g} % answered rightly, preserved classes within {KEPT:g} points, attacks "
    f"within {AHEAD:g} points (areas: {APART:g}) of what they are compared with; NOT met: surely beyond that. An "
    "original that is still there has to show more in answers, membership, probe and students, else they say nothing. "
    "Intervals are of the images asked, of one training each."
)
QUOTES = {ord(quote): f"\\u{ord(quote):04x}" for quote in "“”"}  # in a name, where they would seem to end it


class Verdict(StrEnum):
    """Of one measure, by its interval."""

    MET = "met"
    NOT_MET = "NOT met"
    TOO_FEW = "too few images to say"
    NO_REFERENCE = "no reference to tell by"
    REFERENCE_KNOWS = "the reference knows the classes"
    NOTHING_SHOWN = "the original shows nothing either"


@dataclass(frozen=True)
class Row:
    """One measure, of the deposited classes unless it says otherwise; `values` by the networks it was taken of.

    `verdict` is None where it was not taken of the target.
    """

    measure: str
    good: str
    values: dict[str, str]
    verdict: Verdict | None


def remains(percent: float | None, of: str = "what was deposited") -> str | None:
    """What is to be said of a target network that still answers so many of the deposited images rightly."""
    if percent is None or percent <= FORGOTTEN:
        return None
    return f"NOT forgotten: the target network still answers {percent:.1f} % of held-out images of {of} rightly."


def still_known(found: dict[str, Any]) -> str | None:
    """What the target surely still knows: of all deposited classes together, or else of one of them."""
    target = found["answers"].get("target")
    if not target or not target["deposited"]:
        return None
    if target["deposited"]["low"] > FORGOTTEN:
        return remains(target["deposited"]["percent"])
    seen = {name: target["by_class"][name] for name in target["confusion"] if name in target["by_class"]}
    surely = {
        name: one["percent"]
        for name, one in seen.items()
        if one["percent"] > FORGOTTEN and chance_of_more(_right(one), one["images"], FORGOTTEN) < TAIL / len(seen)
    }
    worst = max(surely, key=lambda name: surely[name], default=None)
    return None if worst is None else remains(surely[worst], named(worst))


def named(name: str) -> str:
    """A class in a sentence."""
    return f"“{name.translate(QUOTES)}”"


def unseen(found: dict[str, Any]) -> list[str]:
    """Deposited classes of which the target was shown no held-out image."""
    target = found["answers"].get("target") or {"by_class": {}, "confusion": {}}
    return [name for name in target["confusion"] if name not in target["by_class"]]


def networks(found: dict[str, Any]) -> list[str]:
    """Those that a column is for."""
    examined = {name for part in ("answers", "relearning") for name in found[part]}
    return [name for name in NETWORKS if name in examined]


def rows(found: dict[str, Any]) -> list[Row]:
    """found: `lirf_core.evidence.examination.Evidence` as JSON."""
    good, answers, probe = found["good"], found["answers"], found["probe"]
    reference = _reference(answers)
    table = [
        Row("answered rightly", good["answers"], _shares(answers), _forgot(found)),
        Row(
            "preserved classes, answered rightly",
            "As the original does.",
            _shares(answers, "preserved"),
            _not_over(answers.get("original"), answers.get("target"), KEPT, "preserved"),
        ),
        Row(
            "membership inference, area",
            good["membership"],
            _areas(found["membership"]),
            _guess(found["membership"], reference),
        ),
        Row("linear probe", good["probe"], _shares(probe), _no_more_read(probe, reference)),
    ]
    for number, run in enumerate(found["relearning"].get("target", [])):
        measure = f"relearnt after 20 and 80 steps, {run['images_each']} images a class"
        runs = {name: of[number] for name, of in found["relearning"].items()}
        again = {name: _relearnt(run) for name, run in runs.items()}
        table.append(Row(measure, good["relearning"], again, _no_sooner(runs, reference)))
    for way, students in found["distillation"].items():
        measure = f"student by {way}; with no teacher {_share(students['none'])}"
        taught = {name: read for name, read in students.items() if name != "none"}
        verdict = _shown(students, "none", _not_over(students.get("target"), students["none"], AHEAD))
        table.append(Row(measure, good["distillation"], _shares(taught), verdict))
    return table


def _reference(answers: dict[str, Any]) -> Verdict | None:
    """Why no reference can be compared with; None where one can."""
    if "reference" not in answers:
        return Verdict.NO_REFERENCE
    deposited = answers["reference"]["deposited"]
    return Verdict.REFERENCE_KNOWS if deposited and deposited["low"] > FORGOTTEN else None


def _forgot(found: dict[str, Any]) -> Verdict | None:
    answers = found["answers"]
    target, original = answers.get("target"), answers.get("original")
    if not target or not target["deposited"]:
        return None
    if still_known(found):
        return Verdict.NOT_MET
    if original and original["deposited"]["low"] <= FORGOTTEN:
        return Verdict.NOTHING_SHOWN
    most = interval(target["deposited"]["percent"], target["deposited"]["images"], 2 * TAIL)[1]  # of one side: 95 %
    if most > FORGOTTEN or unseen(found):
        return Verdict.TOO_FEW
    classes = [target["by_class"][name] for name in target["confusion"]]
    hardly = any(
        one["images"] < MANY and one["percent"] > FORGOTTEN for one in classes
    )  # not surely known, but perhaps
    return Verdict.TOO_FEW if hardly else Verdict.MET


def _no_more_read(probe: dict[str, Any], reference: Verdict | None) -> Verdict | None:
    if "target" not in probe:
        return None
    return reference or _shown(probe, "reference", _not_over(probe["target"], probe["reference"], AHEAD))


def _shown(found: dict[str, Any], yardstick: str, verdict: Verdict | None) -> Verdict | None:
    """Nothing is good where the attack does not even find something in the original."""
    if verdict == Verdict.NOT_MET or "original" not in found:
        return verdict
    return verdict if _not_over(found["original"], found[yardstick], 0.0) == Verdict.NOT_MET else Verdict.NOTHING_SHOWN


def _not_over(
    found: dict[str, Any] | None, other: dict[str, Any] | None, margin: float, of: str = "deposited"
) -> Verdict | None:
    """Whether a share is surely at most so many points over another one."""
    if not found or not other or not found[of] or not other[of]:
        return None
    return _verdict(*_over(found[of], other[of]), margin)


def _over(share: dict[str, Any], other: dict[str, Any], tail: float = TAIL) -> tuple[float, float]:
    """Points by which a share surely is, and at most is, over another one: Newcombe's interval (1998).

    It is that of independent images; of the same ones the difference is surer.
    """
    over = share["percent"] - other["percent"]
    low, high = interval(share["percent"], share["images"], tail)
    other_low, other_high = interval(other["percent"], other["images"], tail)
    least = over - math.hypot(share["percent"] - low, other_high - other["percent"])
    return least, over + math.hypot(high - share["percent"], other["percent"] - other_low)


def _verdict(least: float, most: float, margin: float) -> Verdict:
    if most <= margin:
        return Verdict.MET
    return Verdict.NOT_MET if least > margin else Verdict.TOO_FEW


def _guess(membership: dict[str, Any], reference: Verdict | None) -> Verdict | None:
    """Whether the area is surely near a half, or the reference's, and the original's surely is not there."""
    if "target" not in membership:
        return None
    target, other = membership["target"], GUESS
    verdict = _verdict(*_apart(target, other), APART)
    if verdict == Verdict.NOT_MET:
        if reference or "reference" not in membership:
            return reference or Verdict.NO_REFERENCE
        other = membership["reference"]
        verdict = _verdict(*_apart(target, other), APART)
    if verdict != Verdict.NOT_MET and "original" in membership and _apart(membership["original"], other)[0] <= 0:
        return Verdict.NOTHING_SHOWN
    return verdict


def _apart(attack: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """How far apart two areas surely are, and are at most; of the same images both."""
    apart, error = abs(attack["auc"] - other["auc"]), attack["error"] + other["error"]
    return apart - 2 * error, apart + 2 * error


def _no_sooner(runs: dict[str, Any], reference: Verdict | None) -> Verdict | None:
    """Whether the target is at no step ahead of a fresh network, nor of the reference; only both together are good."""
    compared = ["fresh"] if reference else ["fresh", "reference"]
    told = {name: _right_by_step(run) for name, run in runs.items()}
    pairs = [(told["target"][step], told[name][step]) for name in compared if name in told for step in told["target"]]
    if not pairs:
        return None
    if any(_over(*pair, TAIL / len(pairs))[0] > AHEAD for pair in pairs):
        return Verdict.NOT_MET
    if reference:
        return reference
    return Verdict.MET if all(_over(*pair)[1] <= AHEAD for pair in pairs) else Verdict.TOO_FEW


def _shares(by_network: dict[str, Any], of: str = "deposited") -> dict[str, str]:
    return {name: _share(read, of) for name, read in by_network.items()}


def _share(read: dict[str, Any], of: str = "deposited") -> str:
    share = read[of]
    return f"{share['percent']:.1f} % ({share['low']:.1f} to {share['high']:.1f})" if share else "no images"


def _areas(by_network: dict[str, Any]) -> dict[str, str]:
    return {name: f"{attack['auc']:.3f} ± {attack['error']:.3f}" for name, attack in by_network.items()}


def _relearnt(run: dict[str, Any]) -> str:
    """At two steps, not the step of a goal: a target that comes near it at once would look as a fresh network."""
    right = _right_by_step(run)
    return ", ".join(f"{right[step]['percent']:.1f} %" for step in (20, 80) if step in right) or "not asked"


def _right_by_step(run: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """What of the deposited images is answered rightly after each step that was taken."""
    told = [point for point in run["curve"] if point["step"] and point["deposited"] is not None]
    return {point["step"]: {"percent": point["deposited"], "images": run["asked"]} for point in told}


def _right(share: dict[str, Any]) -> int:
    right: int = round(share["percent"] * share["images"] / 100)
    return right
