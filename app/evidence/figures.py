"""The figures of evidence as a table that people read: console, certificate and command line."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

FORGOTTEN = 5.0  # percent of a deposited class that a target may still answer rightly and be said to have forgotten it
NETWORKS = ("original", "target", "recover", "reference", "fresh")
SOONER = 10.0  # points that a target may be ahead of a fresh network after as many steps
WIDE, VAGUE = 40.0, 0.1  # points of an interval, and a standard error of an area, over which nothing is said
ADVICE = "Too few steps, or too few images: next time more epochs, a smaller batch size or a later split."
RULES = (
    "met: the target is as the measure says is good, as far as the intervals can tell (areas: two standard errors; "
    f"relearning: {SOONER:g} points). Intervals are of the images asked, of one training each."
)


class Verdict(StrEnum):
    """Of one measure, by its interval; "no reference": only one that never saw the classes could tell."""

    MET = "met"
    NOT_MET = "NOT met"
    TOO_FEW = "too few images to say"
    NO_REFERENCE = "no reference to tell by"


@dataclass(frozen=True)
class Row:
    """One measure, of the deposited classes unless it says otherwise; `values` by the networks it was taken of.

    `verdict` is None where it was not taken of the target.
    """

    measure: str
    good: str
    values: dict[str, str]
    verdict: Verdict | None


def remains(percent: float | None) -> str | None:
    """What is to be said of a target network that still answers so many of the deposited images rightly."""
    if percent is None or percent <= FORGOTTEN:
        return None
    return (
        f"NOT forgotten: the target network still answers {percent:.1f} % of held-out images of what was deposited "
        "rightly."
    )


def still_known(found: dict[str, Any]) -> str | None:
    """`remains` of what the target surely still knows: all deposited classes together, or one of them."""
    target = found["answers"].get("target")
    if not target or not target["deposited"]:
        return None
    classes = (target["by_class"].get(name) for name in target["confusion"])
    surely = [one["percent"] for one in (target["deposited"], *classes) if one and one["low"] > FORGOTTEN]
    return remains(max(surely, default=None))


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
        Row("answered rightly", good["answers"], _shares(answers), _forgot(answers.get("target"))),
        Row(
            "preserved classes, answered rightly",
            "As the original does.",
            _shares(answers, "preserved"),
            _not_over(answers.get("original"), answers.get("target"), "preserved"),
        ),
        Row("membership inference, area", good["membership"], _areas(found["membership"]), _guess(found["membership"])),
        Row("linear probe", good["probe"], _shares(probe), _no_more(probe, "reference")),
    ]
    for number, run in enumerate(found["relearning"].get("target", [])):
        measure = f"relearnt after 20 and 80 steps, {run['images_each']} images a class"
        runs = {name: of[number] for name, of in found["relearning"].items()}
        again = {name: _relearnt(run) for name, run in runs.items()}
        table.append(Row(measure, good["relearning"], again, _no_sooner(runs)))
    for way, students in found["distillation"].items():
        measure = f"student by {way}; with no teacher {_share(students['none'])}"
        taught = {name: read for name, read in students.items() if name != "none"}
        table.append(Row(measure, good["distillation"], _shares(taught), _no_more(students, "none")))
    return table


def _forgot(target: dict[str, Any] | None) -> Verdict | None:
    if not target or not target["deposited"]:
        return None
    if target["deposited"]["low"] > FORGOTTEN:
        return Verdict.NOT_MET
    return Verdict.MET if target["deposited"]["high"] <= FORGOTTEN else Verdict.TOO_FEW


def _no_more(by_network: dict[str, Any], yardstick: str) -> Verdict | None:
    """Whether the target's share of the deposited classes is not over the yardstick's."""
    if "target" not in by_network:
        return None
    if yardstick not in by_network:
        return Verdict.NO_REFERENCE
    return _not_over(by_network["target"], by_network[yardstick], "deposited")


def _not_over(share: dict[str, Any] | None, other: dict[str, Any] | None, of: str) -> Verdict | None:
    if not share or not other or not share[of] or not other[of]:
        return None
    if share[of]["low"] > other[of]["high"]:
        return Verdict.NOT_MET
    wide = any(one[of]["high"] - one[of]["low"] > WIDE for one in (share, other))
    return Verdict.TOO_FEW if wide else Verdict.MET


def _guess(membership: dict[str, Any]) -> Verdict | None:
    """Whether the area is a half, or the reference's."""
    if "target" not in membership:
        return None
    target, reference = membership["target"], membership.get("reference")
    if abs(target["auc"] - 0.5) <= 2 * target["error"]:
        return Verdict.TOO_FEW if target["error"] > VAGUE else Verdict.MET
    if reference is None:
        return Verdict.NO_REFERENCE
    apart = math.hypot(target["error"], reference["error"])
    return Verdict.MET if abs(target["auc"] - reference["auc"]) <= 2 * apart else Verdict.NOT_MET


def _no_sooner(runs: dict[str, Any]) -> Verdict | None:
    """Whether the target is not ahead of a fresh network, nor of a reference where there is one, at any step told."""
    told = {name: _right_after(run) for name, run in runs.items()}
    slower = told.get("reference") or told.get("fresh")
    if not slower or not told.get("target"):
        return None
    ahead = [right - other for right, other in zip(told["target"], slower, strict=True)]
    return Verdict.MET if max(ahead) <= SOONER else Verdict.NOT_MET


def _shares(by_network: dict[str, Any], of: str = "deposited") -> dict[str, str]:
    return {name: _share(read, of) for name, read in by_network.items()}


def _share(read: dict[str, Any], of: str = "deposited") -> str:
    share = read[of]
    return f"{share['percent']:.1f} % ({share['low']:.1f} to {share['high']:.1f})" if share else "no images"


def _areas(by_network: dict[str, Any]) -> dict[str, str]:
    return {name: f"{attack['auc']:.3f} ± {attack['error']:.3f}" for name, attack in by_network.items()}


def _relearnt(run: dict[str, Any]) -> str:
    return ", ".join(f"{right:.1f} %" for right in _right_after(run)) or "not asked"


def _right_after(run: dict[str, Any]) -> list[float]:
    """At two steps, not the step of a goal: a target that comes near it at once would look as a fresh network."""
    right = {point["step"]: point["deposited"] for point in run["curve"]}
    return [right[step] for step in (20, 80) if right.get(step) is not None]
