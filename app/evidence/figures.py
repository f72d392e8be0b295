"""The figures of evidence as a table that people read: console, certificate and command line."""

from dataclasses import dataclass
from typing import Any

FORGOTTEN = 5.0  # percent of a deposited class that a target may still answer rightly and be said to have forgotten it
NETWORKS = ("original", "target", "recover", "reference", "fresh")


@dataclass(frozen=True)
class Row:
    """One measure, of the deposited classes unless it says otherwise; `values` by the networks it was taken of."""

    measure: str
    good: str
    values: dict[str, str]


def remains(percent: float | None) -> str | None:
    """What is to be said of a target network that still answers so many of the deposited images rightly."""
    if percent is None or percent <= FORGOTTEN:
        return None
    return (
        f"NOT forgotten: the target network still answers {percent:.1f} % of held-out images of what was deposited "
        "rightly. Too few steps, or too few images: next time more epochs, a smaller batch size or a later split."
    )


def still_known(found: dict[str, Any]) -> str | None:
    """`remains` of an examination: of all deposited classes together, or of one that is surely still known."""
    target = found["answers"].get("target")
    if not target or not target["deposited"]:
        return None
    surely = [target["by_class"][name] for name in target["confusion"] if name in target["by_class"]]
    worst = max((one["percent"] for one in surely if one["low"] > FORGOTTEN), default=None)
    return remains(target["deposited"]["percent"]) or remains(worst)


def networks(found: dict[str, Any]) -> list[str]:
    """Those that a column is for."""
    examined = {name for part in ("answers", "relearning") for name in found[part]}
    return [name for name in NETWORKS if name in examined]


def rows(found: dict[str, Any]) -> list[Row]:
    """found: `lirf_core.evidence.examination.Evidence` as JSON."""
    good = found["good"]
    table = [
        Row("answered rightly", good["answers"], _shares(found["answers"])),
        Row("preserved classes, answered rightly", "As the original does.", _shares(found["answers"], "preserved")),
        Row("membership inference, area", good["membership"], _areas(found["membership"])),
        Row("read by a linear probe", good["probe"], _shares(found["probe"])),
    ]
    for number, run in enumerate(found["relearning"].get("target", [])):
        measure = f"right again after 20 and 80 steps of fine-tuning, {run['images_each']} images of each class"
        again = {name: _relearnt(runs[number]) for name, runs in found["relearning"].items()}
        table.append(Row(measure, good["relearning"], again))
    for way, students in found["distillation"].items():
        measure = f"right by a student, by {way}; with no teacher {_share(students['none'])}"
        taught = {name: read for name, read in students.items() if name != "none"}
        table.append(Row(measure, good["distillation"], _shares(taught)))
    return table


def _shares(by_network: dict[str, Any], of: str = "deposited") -> dict[str, str]:
    return {name: _share(read, of) for name, read in by_network.items()}


def _share(read: dict[str, Any], of: str = "deposited") -> str:
    share = read[of]
    return f"{share['percent']:.1f} % ({share['low']:.1f} to {share['high']:.1f})" if share else "no images"


def _areas(by_network: dict[str, Any]) -> dict[str, str]:
    return {name: f"{attack['auc']:.3f} ± {attack['error']:.3f}" for name, attack in by_network.items()}


def _relearnt(run: dict[str, Any]) -> str:
    """At two steps, not the step of a goal: a target that comes near it at once would look as a fresh network."""
    right = {point["step"]: point["deposited"] for point in run["curve"]}
    return ", ".join(f"{right[step]:.1f} %" for step in (20, 80) if right.get(step) is not None) or "not asked"
