"""The figures of evidence as a table that people read: console, certificate and command line."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lirf_core.evidence.intervals import chances, interval

FORGOTTEN = 5.0  # percent of a deposited class that a target may still answer rightly and be said to have forgotten it
NETWORKS = ("original", "target", "recover", "reference", "fresh")
KEPT, AHEAD, APART = 5.0, 10.0, 0.05  # points of preserved and of deposited classes, and area, that are no difference
GUESS = {"auc": 0.5, "error": 0.0}
TAIL = 0.025  # on each side of an interval
ADVICE = "Too few steps, or too few images: next time more epochs, a smaller batch size or a later split."
RULES = (
    f"met: with 95 %, at most {FORGOTTEN:g} % of the deposited images answered rightly, and no more seen of any class; "
    f"preserved classes within {KEPT:g} points; attacks within {AHEAD:g} points (areas: {APART:g}) of what they are "
    "compared with, while an original that is still there is beyond that in answers, membership, probe and students. "
    "NOT met: surely beyond that. Intervals are of the images asked, of one training each."
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
    if _is_known(target["deposited"]):
        return remains(target["deposited"]["percent"])
    seen = {name: target["by_class"][name] for name in target["confusion"] if name in target["by_class"]}
    surely = {name: one["percent"] for name, one in seen.items() if _is_known(one, TAIL / len(seen))}
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
            _guess(found),
        ),
        Row("linear probe", good["probe"], _shares(probe), _no_more_read(found)),
    ]
    for number, run in enumerate(found["relearning"].get("target", [])):
        measure = f"relearnt after 20 and 80 steps, {run['images_each']} images a class"
        runs = {name: of[number] for name, of in found["relearning"].items()}
        again = {name: _relearnt(run) for name, run in runs.items()}
        table.append(Row(measure, good["relearning"], again, _no_sooner(runs, _reference(answers, runs))))
    for way, students in found["distillation"].items():
        measure = f"student by {way}; with no teacher {_share(students['none'])}"
        taught = {name: read for name, read in students.items() if name != "none"}
        verdict = _controlled(found, students, students["none"])
        table.append(Row(measure, good["distillation"], _shares(taught), verdict))
    return table


def _reference(answers: dict[str, Any], measured: dict[str, Any]) -> Verdict | None:
    """Why the measure cannot be compared with a reference's; None where it can."""
    if "reference" not in answers or "reference" not in measured:
        return Verdict.NO_REFERENCE
    deposited = answers["reference"]["deposited"]
    return Verdict.REFERENCE_KNOWS if deposited and _is_known(deposited) else None


def _is_known(share: dict[str, Any], tail: float = TAIL) -> bool:
    """Whether surely more is answered rightly than what was forgotten may be."""
    return chances(_right(share), share["images"], FORGOTTEN)[1] < tail


def _is_forgotten(share: dict[str, Any]) -> bool:
    return chances(_right(share), share["images"], FORGOTTEN)[0] <= 2 * TAIL  # of one side: 95 %


def _forgot(found: dict[str, Any]) -> Verdict | None:
    target = found["answers"].get("target")
    if not target or not target["deposited"]:
        return None
    if still_known(found):
        return Verdict.NOT_MET
    seen = [target["by_class"].get(name) for name in target["confusion"]]
    is_sure = _is_forgotten(target["deposited"]) and all(one and one["percent"] <= FORGOTTEN for one in seen)
    original = found["answers"].get("original")
    return _if_the_original_shows_it(
        found,
        Verdict.MET if is_sure else Verdict.TOO_FEW,
        original and _of_limit(original["deposited"]),
    )


def _of_limit(share: dict[str, Any]) -> Verdict:
    if _is_forgotten(share):
        return Verdict.MET
    return Verdict.NOT_MET if _is_known(share) else Verdict.TOO_FEW


def _no_more_read(found: dict[str, Any]) -> Verdict | None:
    if "target" not in found["probe"]:
        return None
    reference = _reference(found["answers"], found["probe"])
    return reference or _controlled(found, found["probe"], found["probe"]["reference"])


def _controlled(found: dict[str, Any], attack: dict[str, Any], other: dict[str, Any]) -> Verdict | None:
    """Of an attack by network: the target against what it is compared with, where the original differs from that."""
    target, original = (_not_over(attack.get(name), other, AHEAD) for name in ("target", "original"))
    return target and _if_the_original_shows_it(found, target, original)


def _if_the_original_shows_it(found: dict[str, Any], target: Verdict, original: Verdict | None) -> Verdict:
    """Nothing is good where the same would be said of the original, as far as that is still there."""
    is_destroyed = original is None and "original" in found["missing"]
    if target == Verdict.NOT_MET or original == Verdict.NOT_MET or is_destroyed:
        return target
    return Verdict.TOO_FEW if original == Verdict.TOO_FEW else Verdict.NOTHING_SHOWN


def _not_over(
    found: dict[str, Any] | None, other: dict[str, Any] | None, margin: float, of: str = "deposited"
) -> Verdict | None:
    """Whether a share is surely at most so many points over another one."""
    if not found or not other or not found[of] or not other[of]:
        return None
    return _verdict(*_over(found[of], other[of]), margin)


def _over(share: dict[str, Any], other: dict[str, Any], tail: float = TAIL) -> tuple[float, float]:
    """Points by which a share surely is, and at most is, over another one: Newcombe's interval (1998).

    It is that of independent images: of the same ones, where one network mostly answers as the other, it is wide.
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


def _guess(found: dict[str, Any]) -> Verdict | None:
    """Whether the area is surely near a half, or the reference's."""
    attacks = found["membership"]
    if "target" not in attacks:
        return None
    other = GUESS
    if _near(attacks["target"], other) == Verdict.NOT_MET:
        if reference := _reference(found["answers"], attacks):
            return reference
        other = attacks["reference"]
    original = _near(attacks["original"], other) if "original" in attacks else None
    return _if_the_original_shows_it(found, _near(attacks["target"], other), original)


def _near(attack: dict[str, Any], other: dict[str, Any]) -> Verdict:
    """Two standard errors of each, as if they were of other images."""
    apart, error = abs(attack["auc"] - other["auc"]), attack["error"] + other["error"]
    return _verdict(apart - 2 * error, apart + 2 * error, APART)


def _no_sooner(runs: dict[str, Any], reference: Verdict | None) -> Verdict | None:
    """Whether the target is at no step ahead of a fresh network, nor of the reference; only both together are good."""
    compared = ["fresh"] if reference else ["fresh", "reference"]
    told = {name: _right_by_step(run) for name, run in runs.items()}
    pairs = [(told["target"][step], told[name][step]) for name in compared if name in told for step in told["target"]]
    if not pairs or not runs["target"].get("asked"):  # an earlier version did not keep of how many images
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
    return {point["step"]: {"percent": point["deposited"], "images": run.get("asked")} for point in told}


def _right(share: dict[str, Any]) -> int:
    right: int = round(share["percent"] * share["images"] / 100)
    return right
