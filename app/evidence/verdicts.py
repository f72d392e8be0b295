"""Verdicts on measures, drawn from intervals, and what they mean."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lirf_core.evidence.intervals import chances, interval

FORGOTTEN = 5.0  # percent that a target may still answer correctly and count as having forgotten
TAIL = 0.025  # on each side of an interval


class Verdict(StrEnum):
    """The result of one measure, drawn from its interval."""

    MET = "met"
    NOT_MET = "not met"
    TOO_FEW = "not enough images to decide"
    NO_REFERENCE = "no reference to compare with"
    REFERENCE_KNOWS = "the reference knows the classes"
    NOTHING_SHOWN = "the original shows nothing either"

    @property
    def explanation(self) -> str:
        """One sentence for readers who know no statistics."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Verdict.MET: "With 95 % confidence, the result is within the limit.",
    Verdict.NOT_MET: "With 95 % confidence, the result is beyond the limit.",
    Verdict.TOO_FEW: "The result could lie on either side of the limit; more held-out images would decide it.",
    Verdict.NO_REFERENCE: "This result can only be judged next to a reference, a network that never saw the classes, "
    "and none was measured.",
    Verdict.REFERENCE_KNOWS: "The network named as the reference recognises the deposited classes itself, so nothing "
    "can be compared with it.",
    Verdict.NOTHING_SHOWN: "This test finds nothing in the network from before the deposit either, so its result for "
    "the target proves nothing.",
}


@dataclass(frozen=True)
class Row:
    """One measure, of the deposited classes unless it says otherwise.

    `good` describes a good result. `values` are by network. `verdict` is None if the target was not measured.
    `detail` names the best attack.
    """

    measure: str
    good: str
    values: dict[str, str]
    verdict: Verdict | None
    detail: str = ""


def reference_fault(answers: dict[str, Any], measured: dict[str, Any]) -> Verdict | None:
    """Why the measure cannot be compared with a reference's; None if it can."""
    if "reference" not in answers or "reference" not in measured:
        return Verdict.NO_REFERENCE
    deposited = answers["reference"]["deposited"]
    return Verdict.REFERENCE_KNOWS if deposited and is_surely_known(deposited) else None


def is_surely_known(share: dict[str, Any], tail: float = TAIL) -> bool:
    """Whether surely more is answered correctly than a network that has forgotten may answer."""
    return chances(correct_answers(share), share["images"], FORGOTTEN)[1] < tail


def is_surely_forgotten(share: dict[str, Any]) -> bool:
    return chances(correct_answers(share), share["images"], FORGOTTEN)[0] <= 2 * TAIL  # on one side: 95 %


def if_the_original_shows_it(evidence: dict[str, Any], target: Verdict, original: Verdict | None) -> Verdict:
    """A good verdict counts only if the original, as long as it exists, would not get the same one."""
    is_destroyed = original is None and "original" in evidence["missing"]
    if target == Verdict.NOT_MET or original == Verdict.NOT_MET or is_destroyed:
        return target
    return Verdict.TOO_FEW if original == Verdict.TOO_FEW else Verdict.NOTHING_SHOWN


def over(share: dict[str, Any], other: dict[str, Any], tail: float = TAIL) -> tuple[float, float]:
    """The least and the most points that one share lies above another: Newcombe's interval (1998).

    It assumes independent images. Here both networks see the same images and mostly agree, so it is wider than needed.
    """
    over = share["percent"] - other["percent"]
    low, high = interval(share["percent"], share["images"], tail)
    other_low, other_high = interval(other["percent"], other["images"], tail)
    least = over - math.hypot(share["percent"] - low, other_high - other["percent"])
    return least, over + math.hypot(high - share["percent"], other["percent"] - other_low)


def within(least: float, most: float, margin: float) -> Verdict:
    if most <= margin:
        return Verdict.MET
    return Verdict.NOT_MET if least > margin else Verdict.TOO_FEW


def correct_answers(share: dict[str, Any]) -> int:
    correct: int = round(share["percent"] * share["images"] / 100)
    return correct


def shown_shares(by_network: dict[str, Any], of: str = "deposited") -> dict[str, str]:
    return {name: shown_share(read, of) for name, read in by_network.items()}


def shown_share(read: dict[str, Any], of: str = "deposited") -> str:
    share = read[of]
    return f"{share['percent']:.1f} % ({share['low']:.1f} to {share['high']:.1f})" if share else "no images"
