"""The figures of evidence as a table that people read: console, certificate and command line."""

from collections.abc import Sequence
from typing import Any

from app.deposits.class_losses import fallen_warnings
from app.evidence import attack_figures
from app.evidence.verdicts import (
    FORGOTTEN,
    TAIL,
    Row,
    correct_answers,
    if_the_original_shows_it,
    is_surely_forgotten,
    is_surely_known,
    over,
    reference_fault,
    shown_share,
    shown_shares,
    within,
)
from app.evidence.verdicts import Verdict as Verdict
from lirf_core.enumeration import enumerated
from lirf_core.evidence.chance import is_known
from lirf_core.evidence.intervals import MANY

NETWORKS = {
    "original": "the registered network",
    "before": "the network that the deposit started from",
    "target": "what remains after it",
    "recover": "target and deposit module together",
    "reference": "a network that never saw the deposited classes",
    "fresh": "a network of the same kind that knows nothing",
}
# What counts as no difference: points of preserved classes, points that students know more, and area.
KEPT, AHEAD, APART = 5.0, 10.0, 0.05
CHECK = "Check the names of the folders, the images and the model's preprocessing."
GUESS = {"auc": 0.5, "error": 0.0}
ADVICE = (
    "The training had too few steps or too few images. Next time, use more epochs, a smaller batch size or a later "
    "split."
)
RULES = (
    f"Limits. The target answers at most {FORGOTTEN:g} % of the deposited images correctly, with no single class above "
    f"{FORGOTTEN:g} %. Preserved classes lose at most {KEPT:g} percentage points. {attack_figures.RULES} Students of "
    f"the target come at most {AHEAD:g} points above one without a teacher; areas lie within {APART:g} of what they "
    "are compared with. In answers, membership, attacks and students, the original must exceed the limit if it still "
    "exists, or the test proves nothing. Intervals reflect the images; each network was trained once."
)
QUOTES = {ord(quote): f"\\u{ord(quote):04x}" for quote in "“”"}  # a name must not seem to end its own quotation


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
    if is_surely_known(target["deposited"]):
        return remains(target["deposited"]["percent"])
    by_class = {name: target["by_class"][name] for name in target["confusion"] if name in target["by_class"]}
    known = {name: share["percent"] for name, share in by_class.items() if is_surely_known(share, TAIL / len(by_class))}
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
    return not share or not is_known(correct_answers(share), share["images"], classes)


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
    unproven, overall = set(unknown_classes(evidence)), has_forgotten(evidence)
    shares = {name: target["by_class"].get(name) for name in target["confusion"]}
    verdicts = {}
    for name, share in shares.items():
        if share and is_surely_known(share, TAIL / len(shares)):
            verdicts[name] = Verdict.NOT_MET
        elif name in unproven:
            verdicts[name] = Verdict.NOTHING_SHOWN
        elif share and share["percent"] <= FORGOTTEN and (overall == Verdict.MET or is_surely_forgotten(share)):
            verdicts[name] = Verdict.MET
        else:
            verdicts[name] = Verdict.TOO_FEW
    return verdicts


def _of_chance(evidence: dict[str, Any]) -> list[str]:
    summary, classes = control(evidence), _classes(evidence)
    shares = [share for share in (summary["preserved"], summary["deposited"]) if share] if summary else []
    images = sum(share["images"] for share in shares)
    correct = sum(correct_answers(share) for share in shares)
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
        f"Networks: {columns}. They classify {counts['held_out']} held-out images, by their raw logits. Students "
        f"learn from {counts['attackers']} of these with labels and are tested on {counts['asked']} others. "
        f"{attack_figures.guide(evidence)}Brackets hold 95 % intervals; ± is the standard error."
    )


def networks(evidence: dict[str, Any]) -> list[str]:
    """The networks that get a column."""
    examined = {*evidence["answers"], *attack_figures.networks(evidence)}
    return [name for name in NETWORKS if name in examined]


def rows(evidence: dict[str, Any]) -> list[Row]:
    """evidence: `lirf_core.evidence.examination.Evidence` as JSON."""
    good, answers = evidence["good"], evidence["answers"]
    table = [
        Row("answered correctly", good["answers"], shown_shares(answers), has_forgotten(evidence)),
        Row(
            "preserved classes, answered correctly",
            "As the original does.",
            shown_shares(answers, "preserved"),
            _preserved(answers),
        ),
        Row("points that preserved classes lost since", "At most 5.", _lost(answers), None),
        Row(
            "membership inference, area",
            good["membership"],
            _areas(evidence["membership"]),
            _guess(evidence),
        ),
        *attack_figures.rows(evidence),
    ]
    for way, students in evidence["distillation"].items():
        measure = f"student by {way}; with no teacher {shown_share(students['none'])}"
        taught = {name: read for name, read in students.items() if name != "none"}
        verdict = _controlled(evidence, students, students["none"])
        table.append(Row(measure, good["distillation"], shown_shares(taught), verdict))
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


def has_forgotten(evidence: dict[str, Any]) -> Verdict | None:
    target = evidence["answers"].get("target")
    if not target or not target["deposited"]:
        return None
    if still_known(evidence):
        return Verdict.NOT_MET
    by_class = [target["by_class"].get(name) for name in target["confusion"]]
    is_sure = is_surely_forgotten(target["deposited"]) and all(one and one["percent"] <= FORGOTTEN for one in by_class)
    original = control(evidence)
    if original and is_known_by_chance(original["deposited"], _classes(evidence)):
        share = original["deposited"]
        return Verdict.NOTHING_SHOWN if share and share["images"] >= MANY else Verdict.TOO_FEW
    return if_the_original_shows_it(
        evidence,
        Verdict.MET if is_sure else Verdict.TOO_FEW,
        None if original is None else _of_limit(original["deposited"]),
    )


def _of_limit(share: dict[str, Any]) -> Verdict:
    if is_surely_forgotten(share):
        return Verdict.MET
    return Verdict.NOT_MET if is_surely_known(share) else Verdict.TOO_FEW


def students_learn_nothing(evidence: dict[str, Any], margin: float = AHEAD) -> Verdict | None:
    """Whether students of the target's logits surely know at most `margin` points more than one without a teacher."""
    students = evidence["distillation"].get("logits")
    return _controlled(evidence, students, students["none"], margin) if students else None


def _controlled(
    evidence: dict[str, Any], attack: dict[str, Any], control: dict[str, Any], margin: float = AHEAD
) -> Verdict | None:
    """Compare the target with a control; it counts only if the original differs from that control.

    attack: the attack's result by network.
    """
    target, original = (_not_over(attack.get(name), control, margin) for name in ("target", "original"))
    return target and if_the_original_shows_it(evidence, target, original)


def _not_over(
    read: dict[str, Any] | None, other: dict[str, Any] | None, margin: float, of: str = "deposited"
) -> Verdict | None:
    """Whether one network's share is surely at most `margin` points above another's."""
    if not read or not other or not read[of] or not other[of]:
        return None
    return within(*over(read[of], other[of]), margin)


def _guess(evidence: dict[str, Any]) -> Verdict | None:
    """Whether the area is surely near 0.5, or near the reference's."""
    attacks = evidence["membership"]
    if "target" not in attacks:
        return None
    other = GUESS
    if _near(attacks["target"], other) == Verdict.NOT_MET:
        if reference := reference_fault(evidence["answers"], attacks):
            return reference
        other = attacks["reference"]
    original = _near(attacks["original"], other) if "original" in attacks else None
    return if_the_original_shows_it(evidence, _near(attacks["target"], other), original)


def _near(attack: dict[str, Any], other: dict[str, Any]) -> Verdict:
    """Allows two standard errors of each, as if they came from different images."""
    apart, error = abs(attack["auc"] - other["auc"]), attack["error"] + other["error"]
    return within(apart - 2 * error, apart + 2 * error, APART)


def _areas(by_network: dict[str, Any]) -> dict[str, str]:
    return {name: f"{attack['auc']:.3f} ± {attack['error']:.3f}" for name, attack in by_network.items()}
