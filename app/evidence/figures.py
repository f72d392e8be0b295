"""The figures of evidence as a table that people read: console, certificate and command line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.deposits.class_losses import fallen_warnings
from lirf_core.enumeration import enumerated
from lirf_core.evidence.chance import is_known
from lirf_core.evidence.intervals import MANY, chances, interval

FORGOTTEN = 5.0  # percent that a target may still answer correctly and count as having forgotten
NETWORKS = {
    "original": "the registered network",
    "before": "the network that the deposit started from",
    "target": "what remains after it",
    "recover": "target and deposit module together",
    "reference": "a network that never saw the deposited classes",
    "fresh": "a network of the same kind that knows nothing",
}
# What counts as no difference: points of preserved classes, points of deposited classes, and area.
KEPT, AHEAD, APART = 5.0, 10.0, 0.05
CHECK = "Check the names of the folders, the images and the model's preprocessing."
GUESS = {"auc": 0.5, "error": 0.0}
TAIL = 0.025  # on each side of an interval
ADVICE = (
    "The training had too few steps or too few images. Next time, use more epochs, a smaller batch size or a later "
    "split."
)
RULES = (
    f"Limits. The target answers at most {FORGOTTEN:g} % of the deposited images correctly, with no single class above "
    f"{FORGOTTEN:g} %. Preserved classes lose at most {KEPT:g} percentage points. Attacks on the target come at most "
    f"{AHEAD:g} points above what they are compared with (areas: within {APART:g} of it). In answers, membership, "
    "probe and students, the original must exceed the limit if it still exists, or the test proves nothing. Intervals "
    "reflect the number of images; each network was trained once."
)
QUOTES = {ord(quote): f"\\u{ord(quote):04x}" for quote in "“”"}  # a name must not seem to end its own quotation


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
    """

    measure: str
    good: str
    values: dict[str, str]
    verdict: Verdict | None


def explanations(table: Sequence[Row]) -> dict[str, str]:
    """What the verdicts of a table mean, each once."""
    verdicts = {row.verdict for row in table}
    return {verdict: verdict.explanation for verdict in Verdict if verdict in verdicts}


def remains(percent: float | None, of: str = "what was deposited") -> str | None:
    """Warn about a target that still answers more than `FORGOTTEN` percent of deposited images correctly."""
    if percent is None or percent <= FORGOTTEN:
        return None
    return f"NOT forgotten: the target network still answers {percent:.1f} % of held-out images of {of} correctly."


def still_known(evidence: dict[str, Any]) -> str | None:
    """Warn about what the target surely still knows: all deposited classes together, or else one of them."""
    target = evidence["answers"].get("target")
    if not target or not target["deposited"]:
        return None
    if _is_known(target["deposited"]):
        return remains(target["deposited"]["percent"])
    by_class = {name: target["by_class"][name] for name in target["confusion"] if name in target["by_class"]}
    known = {name: share["percent"] for name, share in by_class.items() if _is_known(share, TAIL / len(by_class))}
    worst = max(known, key=lambda name: known[name], default=None)
    return None if worst is None else remains(known[worst], quoted(worst))


def warnings(evidence: dict[str, Any]) -> list[str]:
    """What readers must know beside the table: what is still known, what the images cannot show, hidden losses."""
    known = still_known(evidence)
    return [*([known] if known else []), *_of_chance(evidence), *_fallen(evidence)]


def control(evidence: dict[str, Any]) -> dict[str, Any] | None:
    """The answers of a network that should know every class: the original's, or if that is gone, of the one before."""
    answers = evidence["answers"]
    summary: dict[str, Any] | None = answers.get("original") or answers.get("before")
    return summary


def is_known_by_chance(share: dict[str, Any] | None, classes: int) -> bool:
    """Whether so many correct answers prove no knowledge: a guess among `classes` may give as many."""
    return not share or not is_known(_correct(share), share["images"], classes)


def unknown_classes(evidence: dict[str, Any]) -> list[str]:
    """Deposited classes with images that the network before the deposit does not clearly know on these images."""
    summary = control(evidence)
    if summary is None:
        return []
    shares = {name: summary["by_class"].get(name) for name in summary["confusion"]}
    return [name for name, share in shares.items() if share and is_known_by_chance(share, _classes(evidence))]


def class_verdicts(evidence: dict[str, Any]) -> dict[str, Verdict]:
    """Whether the target has forgotten each deposited class, as far as its own figures support it."""
    target = evidence["answers"].get("target")
    if not target:
        return {}
    unproven, overall = set(unknown_classes(evidence)), _forgot(evidence)
    shares = {name: target["by_class"].get(name) for name in target["confusion"]}
    verdicts = {}
    for name, share in shares.items():
        if share and _is_known(share, TAIL / len(shares)):
            verdicts[name] = Verdict.NOT_MET
        elif name in unproven:
            verdicts[name] = Verdict.NOTHING_SHOWN
        elif share and share["percent"] <= FORGOTTEN and (overall == Verdict.MET or _is_forgotten(share)):
            verdicts[name] = Verdict.MET
        else:
            verdicts[name] = Verdict.TOO_FEW
    return verdicts


def _of_chance(evidence: dict[str, Any]) -> list[str]:
    summary, classes = control(evidence), _classes(evidence)
    shares = [share for share in (summary["preserved"], summary["deposited"]) if share] if summary else []
    images = sum(share["images"] for share in shares)
    correct = sum(_correct(share) for share in shares)
    if images and not is_known(correct, images, classes):
        percent = 100 * correct / images
        warning = (
            f"The network from before the deposit answers {percent:.1f} % of the evaluation set correctly, not clearly "
            f"more than by chance ({100 / classes:.1f} %). {CHECK}"
        )
        return [warning]
    if names := unknown_classes(evidence):
        listed = enumerated([quoted(name) for name in names])
        return [f"The network from before the deposit does not clearly know {listed} on the evaluation set. {CHECK}"]
    return []


def _fallen(evidence: dict[str, Any]) -> list[str]:
    answers, sentences = evidence["answers"], []
    if target := answers.get("target"):
        after = _percent_by_class(target)
        preserved = after.keys() - target["confusion"].keys()
        since = {"before": "by this deposit and those after it", "original": "since the original network"}
        for name, how in since.items():
            if name in answers:
                sentences += fallen_warnings(how, _percent_by_class(answers[name]), after, preserved)
    return sentences


def _percent_by_class(summary: dict[str, Any]) -> dict[str, float]:
    return {name: share["percent"] for name, share in summary["by_class"].items()}


def _classes(evidence: dict[str, Any]) -> int:
    """How many classes the networks tell apart. Earlier versions did not store it: at least those with images."""
    known: int | None = evidence.get("classes")
    if known:
        return known
    summary = control(evidence)
    return max(2, len(summary.get("by_class", {}))) if summary else 2


def quoted(name: str) -> str:
    """A class name inside a sentence."""
    return f"“{name.translate(QUOTES)}”"


def unseen(evidence: dict[str, Any]) -> list[str]:
    """Deposited classes without a single held-out image."""
    target = evidence["answers"].get("target") or {"by_class": {}, "confusion": {}}
    return [name for name in target["confusion"] if name not in target["by_class"]]


def guide(evidence: dict[str, Any]) -> str:
    """How to read the table: what the networks are, and how many images the figures come from."""
    counts = evidence["images"]
    described = NETWORKS if evidence.get("classes") else {**NETWORKS, "original": NETWORKS["before"]}
    columns = ", ".join(f"{name} ({described[name]})" for name in networks(evidence))
    return (
        f"Networks: {columns}. They classify {counts['held_out']} held-out images, by their raw logits. Attackers "
        f"learn from {counts['attackers']} of these with labels and are tested on {counts['asked']} others. Brackets "
        "hold 95 % intervals; ± is the standard error."
    )


def networks(evidence: dict[str, Any]) -> list[str]:
    """The networks that get a column."""
    examined = {name for part in ("answers", "relearning") for name in evidence[part]}
    return [name for name in NETWORKS if name in examined]


def rows(evidence: dict[str, Any]) -> list[Row]:
    """evidence: `lirf_core.evidence.examination.Evidence` as JSON."""
    good, answers, probe = evidence["good"], evidence["answers"], evidence["probe"]
    table = [
        Row("answered correctly", good["answers"], _shares(answers), _forgot(evidence)),
        Row(
            "preserved classes, answered correctly",
            "As the original does.",
            _shares(answers, "preserved"),
            _preserved(answers),
        ),
        Row("points that preserved classes lost since", "At most 5.", _lost(answers), None),
        Row(
            "membership inference, area",
            good["membership"],
            _areas(evidence["membership"]),
            _guess(evidence),
        ),
        Row("linear probe", good["probe"], _shares(probe), _no_more_read(evidence)),
    ]
    for number, run in enumerate(evidence["relearning"].get("target", [])):
        measure = f"relearnt after 20 and 80 steps, {run['images_each']} images a class"
        runs = {name: of[number] for name, of in evidence["relearning"].items()}
        values = {name: _relearnt(run) for name, run in runs.items()}
        table.append(Row(measure, good["relearning"], values, _no_sooner(runs, _reference(answers, runs))))
    for way, students in evidence["distillation"].items():
        measure = f"student by {way}; with no teacher {_share(students['none'])}"
        taught = {name: read for name, read in students.items() if name != "none"}
        verdict = _controlled(evidence, students, students["none"])
        table.append(Row(measure, good["distillation"], _shares(taught), verdict))
    return table


def _preserved(answers: dict[str, Any]) -> Verdict | None:
    """Since the original and since the network before the deposit: the worse verdict."""
    earlier = [answers[name] for name in ("original", "before") if name in answers]
    verdicts = [_not_over(network, answers.get("target"), KEPT, "preserved") for network in earlier]
    order = (Verdict.NOT_MET, Verdict.TOO_FEW, Verdict.MET)
    return next((verdict for verdict in order if verdict in verdicts), None)


def _lost(answers: dict[str, Any]) -> dict[str, str]:
    """Points by which the target answers fewer images of preserved classes correctly than each earlier network."""
    after = (answers.get("target") or {}).get("preserved")
    earlier = {name: (answers.get(name) or {}).get("preserved") for name in ("original", "before")}
    return {name: f"{of['percent'] - after['percent']:.1f}" for name, of in earlier.items() if of and after}


def _reference(answers: dict[str, Any], measured: dict[str, Any]) -> Verdict | None:
    """Why the measure cannot be compared with a reference's; None if it can."""
    if "reference" not in answers or "reference" not in measured:
        return Verdict.NO_REFERENCE
    deposited = answers["reference"]["deposited"]
    return Verdict.REFERENCE_KNOWS if deposited and _is_known(deposited) else None


def _is_known(share: dict[str, Any], tail: float = TAIL) -> bool:
    """Whether surely more is answered correctly than a network that has forgotten may answer."""
    return chances(_correct(share), share["images"], FORGOTTEN)[1] < tail


def _is_forgotten(share: dict[str, Any]) -> bool:
    return chances(_correct(share), share["images"], FORGOTTEN)[0] <= 2 * TAIL  # on one side: 95 %


def _forgot(evidence: dict[str, Any]) -> Verdict | None:
    target = evidence["answers"].get("target")
    if not target or not target["deposited"]:
        return None
    if still_known(evidence):
        return Verdict.NOT_MET
    by_class = [target["by_class"].get(name) for name in target["confusion"]]
    is_sure = _is_forgotten(target["deposited"]) and all(one and one["percent"] <= FORGOTTEN for one in by_class)
    original = control(evidence)
    if original and is_known_by_chance(original["deposited"], _classes(evidence)):
        share = original["deposited"]
        return Verdict.NOTHING_SHOWN if share and share["images"] >= MANY else Verdict.TOO_FEW
    return _if_the_original_shows_it(
        evidence,
        Verdict.MET if is_sure else Verdict.TOO_FEW,
        None if original is None else _of_limit(original["deposited"]),
    )


def _of_limit(share: dict[str, Any]) -> Verdict:
    if _is_forgotten(share):
        return Verdict.MET
    return Verdict.NOT_MET if _is_known(share) else Verdict.TOO_FEW


def _no_more_read(evidence: dict[str, Any]) -> Verdict | None:
    if "target" not in evidence["probe"]:
        return None
    reference = _reference(evidence["answers"], evidence["probe"])
    return reference or _controlled(evidence, evidence["probe"], evidence["probe"]["reference"])


def _controlled(evidence: dict[str, Any], attack: dict[str, Any], control: dict[str, Any]) -> Verdict | None:
    """Compare the target with a control; it counts only if the original differs from that control.

    attack: the attack's result by network.
    """
    target, original = (_not_over(attack.get(name), control, AHEAD) for name in ("target", "original"))
    return target and _if_the_original_shows_it(evidence, target, original)


def _if_the_original_shows_it(evidence: dict[str, Any], target: Verdict, original: Verdict | None) -> Verdict:
    """A good verdict counts only if the original, as long as it exists, would not get the same one."""
    is_destroyed = original is None and "original" in evidence["missing"]
    if target == Verdict.NOT_MET or original == Verdict.NOT_MET or is_destroyed:
        return target
    return Verdict.TOO_FEW if original == Verdict.TOO_FEW else Verdict.NOTHING_SHOWN


def _not_over(
    read: dict[str, Any] | None, other: dict[str, Any] | None, margin: float, of: str = "deposited"
) -> Verdict | None:
    """Whether one network's share is surely at most `margin` points above another's."""
    if not read or not other or not read[of] or not other[of]:
        return None
    return _verdict(*_over(read[of], other[of]), margin)


def _over(share: dict[str, Any], other: dict[str, Any], tail: float = TAIL) -> tuple[float, float]:
    """The least and the most points that one share lies above another: Newcombe's interval (1998).

    It assumes independent images. Here both networks see the same images and mostly agree, so it is wider than needed.
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


def _guess(evidence: dict[str, Any]) -> Verdict | None:
    """Whether the area is surely near 0.5, or near the reference's."""
    attacks = evidence["membership"]
    if "target" not in attacks:
        return None
    other = GUESS
    if _near(attacks["target"], other) == Verdict.NOT_MET:
        if reference := _reference(evidence["answers"], attacks):
            return reference
        other = attacks["reference"]
    original = _near(attacks["original"], other) if "original" in attacks else None
    return _if_the_original_shows_it(evidence, _near(attacks["target"], other), original)


def _near(attack: dict[str, Any], other: dict[str, Any]) -> Verdict:
    """Allows two standard errors of each, as if they came from different images."""
    apart, error = abs(attack["auc"] - other["auc"]), attack["error"] + other["error"]
    return _verdict(apart - 2 * error, apart + 2 * error, APART)


def _no_sooner(runs: dict[str, Any], reference: Verdict | None) -> Verdict | None:
    """Whether the target is never ahead of a fresh network nor of the reference. A good verdict needs both.

    reference: why there is no reference to compare with, if so.
    """
    compared = ["fresh"] if reference else ["fresh", "reference"]
    shares = {name: _correct_by_step(run) for name, run in runs.items()}
    pairs = [
        (shares["target"][step], shares[name][step]) for name in compared if name in shares for step in shares["target"]
    ]
    if not pairs or not runs["target"].get("asked"):  # an earlier version did not store the number of images
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
    """After two fixed numbers of steps. The step that reaches a goal would hide a target that gets close at once."""
    shares = _correct_by_step(run)
    return ", ".join(f"{shares[step]['percent']:.1f} %" for step in (20, 80) if step in shares) or "not asked"


def _correct_by_step(run: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The share of deposited images that is answered correctly after each training step on the curve."""
    points = [point for point in run["curve"] if point["step"] and point["deposited"] is not None]
    return {point["step"]: {"percent": point["deposited"], "images": run.get("asked")} for point in points}


def _correct(share: dict[str, Any]) -> int:
    correct: int = round(share["percent"] * share["images"] / 100)
    return correct
