"""What a certificate of deposit says, in every format."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from unicodedata import category

from sqlalchemy.orm import Session

from app.audit.service import identified_requester
from app.certificates import records
from app.certificates.records import EvaluationSetUnfit, NotExamined, Records
from app.datasets import service as datasets
from app.deposits import service as deposits
from app.deposits.service import DepositRow
from app.evidence import claims, figures, plots
from app.evidence import service as evidence
from app.evidence.figures import Verdict
from app.evidence.service import EvidenceRow
from app.registry.service import ModelRow
from lirf_core.enumeration import enumerated
from lirf_core.evidence.chance import is_known

LISTED = 30  # class names in a sentence
OBJECTS = {
    "target": "Target network, lower part",
    "served": "Hardened network, which is served",
    "upper": "Upper part",
    "rows": "Last layer, rows of the preserved classes",
    "module": "Deposit module",
    "original": "Original network, lower part",
    "before": "Network before the deposit, lower part",
    "reference": "Reference, lower part",
    "reference_upper": "Reference, upper part",
    "reference_rows": "Reference, rows of the last layer",
    "trained_reference": "Reference, trained by this service",
    "evaluation_set": "Evaluation set",
    "deposit_set": "Deposit set",
    "shown_as_members": "Images used as members",
}
FINDINGS = {
    Verdict.MET: "The figures below show that it has forgotten {}.",
    Verdict.NOT_MET: "It has NOT forgotten {}: it still answers more of these images correctly than a network that has "
    "forgotten them may.",
    Verdict.TOO_FEW: "The figures below do not show whether it has forgotten {}, because there are too few held-out "
    "images.",
    Verdict.NOTHING_SHOWN: "The figures below show nothing of {}, because the network before the deposit does not know "
    "these images either.",
}
LIMITS = (
    "That no other attack would find more of these classes in the target network than the attacks reported here.",
    "That no copy of the original network, of a deposit set or of a backup exists elsewhere.",
    "That nobody who has the network's weights and new images can teach it these classes again.",
    "Anything about the model's answers before the deposit, or while a withdrawal shows the classes.",
)


@dataclass(frozen=True)
class Contents:
    """Texts and drawings as JSON, and the deposit and model that they describe."""

    data: dict[str, Any]
    deposit_id: str
    model_name: str


def of_evidence(session: Session, evidence_id: str, at: datetime) -> Contents:
    """session: reads one snapshot. Raises `UnknownEvidence`, `NotExamined`, `EvidenceChanged`."""
    row = evidence.get(session, evidence_id)
    if row.found is None:
        raise NotExamined(f"Evidence '{row.id}' is {row.state}. Only finished evidence can be certified.")
    deposit, model = deposits.get(session, row.deposit_id), evidence.model_of(session, row)
    found, names = row.found, deposits.class_names(session, deposit)
    _demand_images(row.id, found)
    record = records.of(session, model, deposit, row, at)
    _demand_known(session, row, deposit, record)
    columns, table = figures.networks(found), figures.rows(found)
    data = {
        "title": "Certificate of deposit",
        "classes": _quoted(names),
        "statement": _statement(record, names, found),
        "warnings": figures.warnings(found),
        "issued": _time(at),
        "facts": _facts(model, deposit, record),
        "digests": _digests(record),
        "networks": columns,
        "rows": [
            [row.measure, row.good, row.verdict or "", [row.values.get(name, "–") for name in columns]] for row in table
        ],
        "verdicts": [[verdict, explanation] for verdict, explanation in figures.explanations(table).items()],
        "claims": [[claim.statement, claim.verdict or "not measured"] for claim in claims.claims(found)],
        "rules": figures.RULES,
        "guide": figures.guide(found),
        "missing": [[part, reason] for part, reason in found["missing"].items()],
        "pictures": plots.pictures(found, deposits.class_indices(session, deposit)),
        "confidences": {name: plots.bars(of["confidences"]["deposited"]) for name, of in found["answers"].items()},
        "limits": LIMITS,
    }
    return Contents(_plain(data), deposit.id, model.name)


def _demand_images(evidence_id: str, found: dict[str, Any]) -> None:
    """Raises `NotExamined` if the target was not asked about images of each deposited class."""
    if not (found["answers"].get("target") or {}).get("deposited"):
        missing = found["missing"]
        reason = missing.get("answers") or missing.get("answers, target") or "Have the deposit examined again."
        raise NotExamined(
            f"Evidence '{evidence_id}' has no answers of the target network to the deposited classes. {reason}"
        )
    if unseen := figures.unseen(found):
        raise NotExamined(
            f"Evidence '{evidence_id}' has no held-out image of {_quoted(unseen)}, but a certificate covers all "
            "classes of a deposit. Upload an evaluation set with images of each class, and have the deposit examined "
            "again."
        )


def _demand_known(session: Session, row: EvidenceRow, deposit: DepositRow, record: Records) -> None:
    """Raises `EvaluationSetUnfit` if the network before the deposit did not know a class on these images.

    Then a target that does not answer them proves nothing: the images may show something else.
    """
    found, classes = row.found or {}, record.examination.details["network"]["classes"]
    if figures.control(found):
        unknown = figures.unknown_classes({**found, "classes": classes})
    elif row.evaluation_set_id == deposit.evaluation_set_id and (metrics := record.deposit.details.get("metrics")):
        counts = datasets.get(session, row.evaluation_set_id).counts
        by_class = metrics.get("before", metrics["original"])["by_class"]  # an earlier version called it the original
        unknown = [
            name
            for name in deposits.class_names(session, deposit)
            if not is_known(round((by_class.get(name) or 0) * counts.get(name, 0) / 100), counts.get(name, 0), classes)
        ]
    else:
        raise EvaluationSetUnfit(
            "The networks from before the deposit were destroyed, so nobody can check whether they knew the classes "
            f"on the images of evidence '{row.id}'. Have it examined on the evaluation set that it was made with."
        )
    if unknown:
        raise EvaluationSetUnfit(
            f"On the images of evidence '{row.id}', the network from before the deposit did not answer "
            f"{_quoted(unknown)} correctly clearly more often than by chance. So these images cannot show forgetting. "
            f"{figures.CHECK} Then upload an evaluation set, or more images, and have the deposit "
            "examined again."
        )


def _statement(record: Records, names: list[str], found: dict[str, Any]) -> str:
    classes = record.examination.details["network"]["classes"]
    return (
        f"On {_time(record.deposit.at)}, {_quoted(names)} ({len(names)} of {classes} classes) were deposited from the "
        f"model {record.deposit.model}. What remains is the target network. {' '.join(_findings(found))} "
        f"{claims.sentence(found)} A deposit module that can bring the classes back was stored separately and "
        "encrypted. The method is Learning with Recoverable Forgetting (Ye et al., ECCV 2022)."
    )


def _findings(found: dict[str, Any]) -> Iterator[str]:
    """A sentence for each verdict: nothing is claimed for a class whose own figures do not support it."""
    verdicts = figures.class_verdicts(found)
    for verdict, sentence in FINDINGS.items():
        if names := [name for name, of_class in verdicts.items() if of_class == verdict]:
            yield sentence.replace("{}", _quoted(names))


def _facts(model: ModelRow, deposit: DepositRow, record: Records) -> list[list[str]]:
    details, network = record.examination.details, record.examination.details["network"]
    own, revision = record.deposit.details["revision"], details["revision"]
    later = "" if revision == own else f"; the deposit made revision {own}"
    return [
        ["Model", f"{model.name}, {network['architecture']}, split after {network['split']}"],
        ["Reason", record.request.reason or ""],
        ["Requested", f"by {identified_requester(record.request)}, {_time(record.request.at)}"],
        ["Deposit", deposit.id],
        ["Examined", f"{_time(record.examination.at)}, revision {revision} of the model{later}"],
        ["Compared with", _reference(details)],
        ["Can the classes come back?", _recoverable(model, record)],
    ]


def _reference(details: dict[str, Any]) -> str:
    """details: of the event `evidence.finished`."""
    if images := details.get("reference_set"):
        return (
            f"a reference that this service trained from scratch, on {images['images']} images of {images['classes']} "
            "preserved classes that were uploaded for it"
        )
    reference = details["reference"]
    return f"{reference}, declared never to have seen the classes" if reference else "no reference"


def _digests(record: Records) -> list[list[str]]:
    """The digests of the examined objects, of the deposit's own objects if they differ, and of the audit's events."""
    objects = record.examination.details["examined"]
    digests = [[title, objects[name]] for name, title in OBJECTS.items() if name in objects]
    for name in ("target", "module"):
        if (of_deposit := record.deposit.details[f"{name}_object"]) != objects.get(name):
            digests.append([f"{OBJECTS[name]}, as the deposit made it", of_deposit])
    digests.append(["Figures", record.examination.details["digest"]])
    for name, event in (("Request", record.request), ("Deposit", record.deposit), ("Evidence", record.examination)):
        digests.append([f"{name} in the audit, event {event.number}", event.digest])
    return digests


def _recoverable(model: ModelRow, record: Records) -> str:
    if purge := record.purge:
        end = purge.details["shred_effective_at"]
        backups = f"Backups hold its key until {end[:10]}." if end else "Earlier backups may still hold its key."
        by = identified_requester(purge)
        return f"No: {by} purged the deposit module on {_time(purge.at)}. {backups} {_rest(record)}"
    if restoration := record.restoration:
        by = identified_requester(restoration)
        return f"They are back: {by} restored the classes on {_time(restoration.at)}. They answer now."
    second = ", with the approval of a second person" if model.needs_second_person else ""
    count = len(record.withdrawals)
    now = {0: "No withdrawal shows", 1: "1 withdrawal shows"}.get(count, f"{count} withdrawals show")
    return f"Yes, a custodian{second} can bring them back until the deposit is purged. {now} the classes now."


def _rest(record: Records) -> str:
    """What a purge leaves that could relearn the classes."""
    if record.new_base is None:
        return (
            "The sealed working target and upper part, which were trained with the classes, could still relearn them "
            "sooner than a network that never knew them."
        )
    by, on = identified_requester(record.new_base), _time(record.new_base.at)
    return f"{by} destroyed the older networks, which could have relearnt the classes, on {on}."


def _quoted(names: list[str]) -> str:
    return enumerated([figures.quoted(name) for name in names], LISTED)


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "–"


def _plain(data: Any) -> Any:
    """Put each text on one line and escape invisible characters (controls, and marks that turn the direction)."""
    if isinstance(data, str):
        line = " ".join(data.split())
        return "".join(char.encode("unicode_escape").decode() if category(char)[0] == "C" else char for char in line)
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    return [_plain(item) for item in data] if isinstance(data, list | tuple) else data
