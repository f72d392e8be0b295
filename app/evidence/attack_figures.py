"""What attackers read, as rows of the table: the target beside the reference, by the same attackers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from app.evidence.verdicts import Row, Verdict, if_the_original_shows_it, reference_fault, shown_shares, within

FEW = 10  # images of each class; the limits of more are stricter
MOST_STEPS = 80  # of an attacker with few images
AHEAD, AHEAD_WITH_MANY, PROBE_AHEAD_WITH_MANY = 10.0, 5.0, 3.0  # points that the target may be ahead of the reference
RULES = (
    f"Attackers read at most {AHEAD:g} points more than from the reference; with more than {FEW} images of each class, "
    f"at most {AHEAD_WITH_MANY:g} (linear probes {PROBE_AHEAD_WITH_MANY:g})."
)
EARLIER = (
    "An earlier version of the service measured this, without a fair comparison, so it has no verdict. Have the "
    "deposit examined again."
)


def measured(evidence: dict[str, Any]) -> dict[str, Any] | None:
    """The attacks; None if they were not made, as in evidence of an earlier version."""
    attacks: dict[str, Any] | None = evidence.get("attacks")
    return attacks


def networks(evidence: dict[str, Any]) -> list[str]:
    """The attacked networks."""
    attacks = measured(evidence)
    return list(attacks["networks"] if attacks else evidence.get("relearning") or {})


def guide(evidence: dict[str, Any]) -> str:
    """Who attacked, ending with a space; nothing if nobody did."""
    attacks = measured(evidence)
    if not attacks:
        return ""
    hardened = "In place of the target they attack the hardened network, which is served. "
    return (
        f"{hardened if attacks['is_hardened'] else ''}Each of {attacks['draws']} attackers learns from up to "
        f"{attacks['learning']} labelled images of each class and is asked about others, {attacks['asked']} deposited "
        f"images in all. Whatever an attack costs, it may take {attacks['cost']:g} points of preserved accuracy; the "
        "best attack counts, chosen on the attacker's own images. A + says by how many points more is read than from "
        "the reference. "
    )


def rows(evidence: dict[str, Any]) -> list[Row]:
    """One for each budget of the attackers, and the time until a network has learnt the classes again."""
    attacks = measured(evidence)
    return [*_rows(evidence, attacks), *_relearning_times(evidence, attacks)] if attacks else _earlier(evidence)


def verdict_of(evidence: dict[str, Any], number: int, margin: float | None = None) -> Verdict | None:
    """Of the budget with this number. margin: points; the budget's own limit if None."""
    attacks = evidence["attacks"]
    attacked = attacks["networks"]
    if fault := reference_fault(evidence["answers"], attacked):
        return fault
    ahead, limit = attacks["advantages"][number], margin or limit_of(attacks["budgets"][number])
    target = within(ahead["low"], ahead["high"], limit)
    original = None
    if "original" in attacked:
        of_original, of_reference = (
            attacked[name]["readings"][number]["deposited"][0] for name in ("original", "reference")
        )
        original = Verdict.NOT_MET if of_original - of_reference > limit else Verdict.MET
    return if_the_original_shows_it(evidence, target, original)


def limit_of(budget: dict[str, Any]) -> float:
    """The points that the target may be ahead of the reference."""
    return AHEAD if budget["images"] <= FEW else strict_limit_of(budget)


def strict_limit_of(budget: dict[str, Any]) -> float:
    """The points that it may be ahead for the strictest claim, however few the images."""
    return AHEAD_WITH_MANY if budget["kind"] == "best" else PROBE_AHEAD_WITH_MANY


def title(budget: dict[str, Any]) -> str:
    """What an attacker uses."""
    if not budget["images"]:
        return "read without an image, by a constant on the logits"
    images = f"{budget['images']} images a class"
    if budget["kind"] != "best":
        return f"linear {budget['kind']}, {images}"
    return f"read with {images}, " + (f"{budget['steps']} steps" if budget["steps"] else "no training")


def curves(attacks: dict[str, Any]) -> dict[int, dict[str, list[tuple[int, float]]]]:
    """By images of each class and network: steps of fine-tuning, and percent of the deposited images that are read."""
    by_images: dict[int, dict[str, list[tuple[int, float]]]] = {}
    for number, budget in enumerate(attacks["budgets"]):
        if budget["kind"] == "best" and budget["images"]:
            for name, attacked in attacks["networks"].items():
                point = budget["steps"], fmean(attacked["readings"][number]["deposited"])
                by_images.setdefault(budget["images"], {}).setdefault(name, []).append(point)
    return by_images


def _rows(evidence: dict[str, Any], attacks: dict[str, Any]) -> Iterator[Row]:
    good = evidence["good"]["attacks"]
    for number, budget in enumerate(attacks["budgets"]):
        readings = {name: attacked["readings"][number] for name, attacked in attacks["networks"].items()}
        values = {name: f"{fmean(reading['deposited']):.1f} %" for name, reading in readings.items()}
        if attacks["advantages"]:
            ahead = attacks["advantages"][number]
            values["target"] += f"; {ahead['points']:+.1f} ({ahead['low']:+.1f} to {ahead['high']:+.1f})"
        names = {
            name: _most_frequent(readings[name]["attacks"]) for name in ("target", "reference") if name in readings
        }
        detail = _best(names) if budget["kind"] == "best" and budget["images"] else ""
        yield Row(title(budget), good, values, verdict_of(evidence, number), detail)


def _best(names: dict[str, str]) -> str:
    return "Best attack: " + "; ".join(f"{attack} ({network})" for network, attack in names.items()) + "."


def _most_frequent(names: Sequence[str]) -> str:
    [(name, _)] = Counter(names).most_common(1)
    return name


def _relearning_times(evidence: dict[str, Any], attacks: dict[str, Any]) -> Iterator[Row]:
    found = attacks["anamnesis"]
    if not found:
        return
    times = {name: found[name] for name in ("target", "reference")}
    values = {
        name: f"not reached ({found['most_steps']} steps)" if of is None else f"{of} steps"
        for name, of in times.items()
    }
    index = "not reached" if found["index"] is None else f"{found['index']:.2f}"
    good = "An anamnesis index (AIN) near 1. Far below 1, the target knew the classes."
    yield Row(f"time to relearn {found['goal']:.0f} %; AIN {index}", good, values, None)


def _earlier(evidence: dict[str, Any]) -> list[Row]:
    """Figures of an earlier version, which let the last layer's bias decide."""
    table, good = [], evidence["good"]
    if probe := evidence.get("probe"):
        table.append(Row("linear probe", good["probe"], shown_shares(probe), None, EARLIER))
    relearning = evidence.get("relearning") or {}
    for number, run in enumerate(relearning.get("target", [])):
        measure = f"relearnt after 20 and 80 steps, {run['images_each']} images a class"
        values = {name: _relearnt(of[number]) for name, of in relearning.items()}
        table.append(Row(measure, good["relearning"], values, None, EARLIER))
    return table


def _relearnt(run: dict[str, Any]) -> str:
    shares = {point["step"]: point["deposited"] for point in run["curve"] if point["deposited"] is not None}
    return ", ".join(f"{shares[step]:.1f} %" for step in (20, 80) if step in shares) or "not asked"
