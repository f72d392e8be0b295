"""What a certificate of deposit says, the same in each format."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from unicodedata import category

from sqlalchemy.orm import Session

from app.audit.service import requester
from app.certificates import records
from app.certificates.records import NotExamined, Records
from app.deposits import service as deposits
from app.deposits.service import DepositRow
from app.evidence import figures, plots
from app.evidence import service as evidence
from app.registry.service import ModelRow

LISTED = 30
OBJECTS = {
    "target": "Target network, lower part",
    "upper": "Upper part",
    "module": "Deposit module",
    "original": "Original network, lower part",
    "reference": "Reference, lower part",
    "reference_upper": "Reference, upper part",
    "evaluation_set": "Evaluation set",
    "deposit_set": "Deposit set",
    "shown_as_members": "Images shown as members",
}
LIMITS = (
    "That no other attack finds more of these classes in the target network than the attacks made here.",
    "That no copy of the original network, of a deposit set or of a backup is elsewhere.",
    "That nobody can teach the network these classes again with images and its weights.",
    "What the model answered before the deposit, or answers where a withdrawal shows the classes.",
)


@dataclass(frozen=True)
class Contents:
    """Texts and drawings, as JSON has them, and what they are of."""

    told: dict[str, Any]
    deposit_id: str
    model_name: str


def of_evidence(session: Session, evidence_id: str, at: datetime) -> Contents:
    """session: one that reads one snapshot. Raises `UnknownEvidence`, `NotExamined`, `EvidenceChanged`."""
    row = evidence.get(session, evidence_id)
    if row.found is None:
        raise NotExamined(f"evidence '{row.id}' is {row.state}; a certificate is of evidence that has finished.")
    deposit, model = deposits.get(session, row.deposit_id), evidence.model_of(session, row)
    found, names = row.found, deposits.class_names(session, deposit)
    _demand_seen(row.id, found)
    record = records.of(session, model, deposit, row, at)
    columns = figures.networks(found)
    told = {
        "title": "Certificate of deposit",
        "classes": _listed(names),
        "statement": _statement(record, names),
        "warning": figures.still_known(found),
        "issued": _time(at),
        "facts": _facts(model, deposit, record),
        "digests": _digests(record),
        "networks": columns,
        "rows": [
            [one.measure, one.good, one.verdict or "", [one.values.get(name, "–") for name in columns]]
            for one in figures.rows(found)
        ],
        "rules": figures.RULES,
        "images": found["images"],
        "missing": [[part, reason] for part, reason in found["missing"].items()],
        "pictures": plots.pictures(found, deposits.class_indices(session, deposit)),
        "confidences": {name: plots.bars(of["confidences"]["deposited"]) for name, of in found["answers"].items()},
        "limits": LIMITS,
    }
    return Contents(_plain(told), deposit.id, model.name)


def _demand_seen(evidence_id: str, found: dict[str, Any]) -> None:
    """Raises `NotExamined`."""
    if not (found["answers"].get("target") or {}).get("deposited"):
        missing = found["missing"]
        reason = missing.get("answers") or missing.get("answers, target") or "it has none."
        raise NotExamined(
            f"evidence '{evidence_id}' has no answers of the target network to the deposited classes: {reason}"
        )
    if unseen := figures.unseen(found):
        raise NotExamined(
            f"evidence '{evidence_id}' has no held-out image of {_listed(unseen)}, and a certificate is of all "
            "classes of a deposit: upload an evaluation set with images of each, and have it examined again."
        )


def _statement(record: Records, names: list[str]) -> str:
    classes = record.examined.details["network"]["classes"]
    return (
        f"On {_time(record.made.at)} the knowledge of {_listed(names)} ({len(names)} of {classes} classes) was "
        f"deposited from the model {record.made.model}: its target network has forgotten these classes as far as the "
        "figures below say, and a deposit module that can bring them back was stored apart from it, encrypted. The "
        "method is Learning with Recoverable Forgetting (Ye et al., ECCV 2022)."
    )


def _facts(model: ModelRow, deposit: DepositRow, record: Records) -> list[list[str]]:
    details, network = record.examined.details, record.examined.details["network"]
    made, examined, reference = record.made.details["revision"], details["revision"], details["reference"]
    later = "" if examined == made else f"; the deposit made revision {made}"
    return [
        ["Model", f"{model.name}, {network['architecture']}, split after {network['split']}"],
        ["Reason", record.requested.reason or ""],
        ["Requested", f"by {record.requested.actor}, {_time(record.requested.at)}"],
        ["Deposit", deposit.id],
        ["Examined", f"{_time(record.examined.at)}, revision {examined} of the model{later}"],
        ["Compared with", f"{reference}, said never to have seen the classes" if reference else "no reference"],
        ["Can it be brought back?", _recoverable(model, record)],
    ]


def _digests(record: Records) -> list[list[str]]:
    """What was examined, as the vault has it, of the deposit where that is another by now, and where the audit is."""
    objects = record.examined.details["examined"]
    told = [[title, objects[name]] for name, title in OBJECTS.items() if name in objects]
    for name in ("target", "module"):
        if (of_deposit := record.made.details[f"{name}_object"]) != objects.get(name):
            told.append([f"{OBJECTS[name]}, as the deposit made it", of_deposit])
    told.append(["Figures", record.examined.details["digest"]])
    for name, event in (("Request", record.requested), ("Deposit", record.made), ("Evidence", record.examined)):
        told.append([f"{name} in the audit, event {event.number}", event.digest])
    return told


def _recoverable(model: ModelRow, record: Records) -> str:
    if purged := record.purged:
        gone = purged.details["shred_effective_at"]
        backups = f"backups hold its key until {gone[:10]}" if gone else "backups from before it may hold its key"
        return f"No: {requester(purged)} purged the deposit module on {_time(purged.at)}; {backups}."
    if restored := record.restored:
        return f"It is: {requester(restored)} restored the classes on {_time(restored.at)}; they answer now."
    lent = len(record.lent)
    second = " whom a second person approves" if model.needs_second_person else ""
    now = {0: "no withdrawal shows", 1: "1 withdrawal shows"}.get(lent, f"{lent} withdrawals show")
    return f"Yes, by a custodian{second}, until the deposit is purged; {now} the classes now."


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(figures.named(name) for name in names[:LISTED]) + more


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "–"


def _plain(told: Any) -> Any:
    """Texts in one line, with what cannot be seen (controls, marks that turn the direction) as its escape."""
    if isinstance(told, str):
        told = " ".join(told.split())
        return "".join(one.encode("unicode_escape").decode() if category(one)[0] == "C" else one for one in told)
    if isinstance(told, dict):
        return {name: _plain(value) for name, value in told.items()}
    return [_plain(one) for one in told] if isinstance(told, list | tuple) else told
