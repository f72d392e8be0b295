"""What may be claimed of a deposit, from the weakest claim to the strongest, and against which attackers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.evidence import attack_figures
from app.evidence.attack_figures import AHEAD, AHEAD_WITH_MANY, FEW, MOST_STEPS, PROBE_AHEAD_WITH_MANY
from app.evidence.figures import has_forgotten, students_learn_nothing
from app.evidence.verdicts import Verdict

MANY = 100  # images of each class
STUDENTS = 5.0  # points that a student may know more than one without a teacher
NEVER = "a network that never saw the classes"


@dataclass(frozen=True)
class Claim:
    """A statement and whether the figures support it. The verdict is None if nothing was measured for it."""

    statement: str
    verdict: Verdict | None


def claims(evidence: dict[str, Any]) -> list[Claim]:
    """From the weakest to the strongest. evidence: `lirf_core.evidence.results.Evidence` as JSON."""
    few, many = relearning(evidence, False), relearning(evidence, True)
    return [
        Claim("The target does not answer with the classes.", has_forgotten(evidence)),
        Claim(
            f"Its answers teach another network at most {STUDENTS:g} points more of the classes than labels alone do.",
            students_learn_nothing(evidence, STUDENTS),
        ),
        Claim(
            f"Attackers who hold its weights and {FEW} labelled images of each class, or fewer, read at most {AHEAD:g} "
            f"points more of the classes than from {NEVER}, in up to {MOST_STEPS} steps.",
            few,
        ),
        Claim(
            f"With up to {MANY} images of each class and any number of steps tried, they read at most "
            f"{AHEAD_WITH_MANY:g} points more (linear probes {PROBE_AHEAD_WITH_MANY:g}).",
            many,
        ),
    ]


def relearning(evidence: dict[str, Any], has_many: bool) -> Verdict | None:
    """Whether attackers with few, or with many, images are not ahead: the worst verdict of all they can do."""
    attacks = attack_figures.measured(evidence)
    if not attacks:
        return None
    needed = MANY if has_many else FEW
    if has_many and attacks["strength"] != "full":
        return None
    verdicts = {
        attack_figures.verdict_of(evidence, number, attack_figures.strict_limit_of(budget) if has_many else AHEAD)
        for number, budget in enumerate(attacks["budgets"])
        if budget["images"] <= needed and (has_many or budget["steps"] <= MOST_STEPS)
    }
    worst = _worst([verdict for verdict in verdicts if verdict])
    return Verdict.TOO_FEW if worst == Verdict.MET and attacks["learning"] < needed else worst


def _worst(verdicts: Sequence[Verdict]) -> Verdict | None:
    """What is surely missed decides; a budget that shows nothing does not spoil those that do."""
    order = (Verdict.REFERENCE_KNOWS, Verdict.NO_REFERENCE, Verdict.NOT_MET, Verdict.TOO_FEW, Verdict.MET)
    return next((one for one in (*order, Verdict.NOTHING_SHOWN) if one in verdicts), None)


def sentence(evidence: dict[str, Any]) -> str:
    """What a certificate says about attackers who hold the weights: no more than the figures support."""
    verdict, strict = relearning(evidence, False), relearning(evidence, True)
    if verdict is None:
        why = "an earlier version of the service examined it" if _is_earlier(evidence) else "the attacks were not made"
        return f"Nothing is claimed about how soon the classes can be learnt again, because {why}."
    if verdict == Verdict.MET:
        more = " With up to 100 images, it is at most 5 points." if strict == Verdict.MET else ""
        return (
            f"Attackers who hold its weights and up to {FEW} labelled images of each class read at most {AHEAD:g} "
            f"points more of them than from {NEVER}, by the attacks below with up to {MOST_STEPS} steps.{more}"
        )
    return _SENTENCES[verdict]


def _is_earlier(evidence: dict[str, Any]) -> bool:
    return "attacks" not in evidence


_SENTENCES = {
    Verdict.NOT_MET: f"It is NOT protected against attackers who hold its weights: with up to {FEW} labelled images of "
    f"each class, they read clearly more of the classes than from {NEVER}.",
    Verdict.TOO_FEW: "The figures do not decide how much more attackers who hold its weights read of the classes than "
    f"from {NEVER}, because there are too few held-out images.",
    Verdict.NO_REFERENCE: f"There is no reference, {NEVER}, so nothing is claimed about how soon the classes can be "
    "learnt again.",
    Verdict.REFERENCE_KNOWS: "The reference recognises the classes itself, so nothing is claimed about how soon they "
    "can be learnt again.",
    Verdict.NOTHING_SHOWN: f"Attackers read as much from {NEVER} as from the original, so nothing is claimed about how "
    "soon the classes can be learnt again.",
}
