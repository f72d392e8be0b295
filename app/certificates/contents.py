"""What a certificate of deposit says, the same in each format."""

from datetime import datetime
from typing import Any
from unicodedata import category

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.deposits import service as deposits
from app.deposits.service import DepositRow
from app.errors import Problem
from app.evidence import figures, plots
from app.evidence import service as evidence
from app.evidence.digests import digest
from app.evidence.service import EvidenceRow
from app.registry.service import ModelRow
from app.withdrawals import service as withdrawals

LISTED = 30
OBJECTS = {
    "target": "Target network",
    "module": "Deposit module",
    "original": "Original network",
    "reference": "Reference",
    "evaluation_set": "Evaluation set",
    "dataset": "Deposit set, for membership inference",
}
LIMITS = (
    "That no other attack finds more of these classes in the target network than the attacks made here.",
    "That no copy of the original network, of a deposit set or of a backup is elsewhere.",
    "That nobody can teach the network these classes again with images and its weights.",
    "What the model answered before the deposit, or answers where a withdrawal shows the classes.",
)


class NotExamined(Problem):
    status, slug, title = 409, "not-examined", "There is no finished evidence to certify"


class EvidenceChanged(Problem):
    status, slug, title = 500, "evidence-changed", "The evidence is not what the audit has"


def of_evidence(session: Session, evidence_id: str, at: datetime) -> dict[str, Any]:
    """Texts and drawings, as JSON has them. Raises `UnknownEvidence`, `NotExamined`, `EvidenceChanged`."""
    row = evidence.get(session, evidence_id)
    if row.found is None:
        raise NotExamined(f"evidence '{row.id}' is {row.state}; a certificate is of evidence that has finished.")
    deposit, model = deposits.get(session, row.deposit_id), evidence.model_of(session, row)
    found, names = row.found, deposits.class_names(session, deposit)
    _demand_seen(row.id, found)
    requested, made, examined = _held_against_audit(session, model, deposit, row)
    columns = figures.networks(found)
    deposited = deposits.class_indices(session, deposit)
    told: dict[str, Any] = _plain(
        {
            "title": "Certificate of deposit",
            "classes": _listed(names),
            "statement": _statement(model, deposit, names),
            "warning": figures.still_known(found),
            "issued": _time(at),
            "facts": _facts(session, model, deposit, row),
            "digests": [
                *_objects(made, examined),
                ["Upper part of the network", str(model.upper_digest)],
                ["Figures", digest(found)],
                *(
                    [f"{name} in the audit, event {event.number}", event.digest]
                    for name, event in (("Request", requested), ("Deposit", made), ("Evidence", examined))
                ),
            ],
            "networks": columns,
            "rows": [
                [one.measure, one.good, one.verdict or "", [one.values.get(name, "–") for name in columns]]
                for one in figures.rows(found)
            ],
            "rules": figures.RULES,
            "images": found["images"],
            "missing": [[part, reason] for part, reason in found["missing"].items()],
            "pictures": plots.pictures(found, deposited),
            "confidences": {name: plots.bars(of["confidences"]["deposited"]) for name, of in found["answers"].items()},
            "limits": LIMITS,
        }
    )
    return told


def subject(session: Session, evidence_id: str) -> tuple[str, str]:
    """The deposit's id and the model's name. Raises `UnknownEvidence`."""
    row = evidence.get(session, evidence_id)
    return row.deposit_id, evidence.model_of(session, row).name


def _demand_seen(evidence_id: str, found: dict[str, Any]) -> None:
    """Raises `NotExamined`."""
    if not (found["answers"].get("target") or {}).get("deposited"):
        raise NotExamined(f"evidence '{evidence_id}' has no held-out image of the deposited classes: it says nothing.")
    if unseen := figures.unseen(found):
        raise NotExamined(
            f"evidence '{evidence_id}' has no held-out image of {_listed(unseen)}, and a certificate is of all "
            "classes of a deposit: upload an evaluation set with images of each, and have it examined again."
        )


def _held_against_audit(session: Session, model: ModelRow, deposit: DepositRow, row: EvidenceRow) -> tuple[Any, ...]:
    """The events of request, deposit and evidence. Raises `EvidenceChanged` where one is not as the rows say."""
    requested = audit.intact(session, "deposit.requested", deposit.id)
    made = audit.intact(session, "deposit.finished", deposit.id)
    examined = audit.intact(session, "evidence.finished", row.id)
    if requested is None or made is None or examined is None:
        raise EvidenceChanged(
            f"the audit has not the events of evidence '{row.id}' as they were; see `lirf audit verify`."
        )
    of_rows = {
        "model": model.name,
        "reason": deposit.reason,
        "requested by": deposit.created_by,
        "classes": sorted(deposits.class_names(session, deposit)),
        "deposit": deposit.id,
        "revision": row.revision,
        "figures": digest(row.found or {}),
    }
    of_audit = {
        "model": requested.model,
        "reason": requested.reason,
        "requested by": requested.actor,
        "classes": sorted(made.details["classes"]),
        "deposit": examined.details["deposit"],
        "revision": examined.details["revision"],
        "figures": examined.details["digest"],
    }
    if differs := [name for name, value in of_rows.items() if of_audit[name] != value]:
        raise EvidenceChanged(f"evidence '{row.id}' is not what the audit says: other {', '.join(differs)}.")
    return requested, made, examined


def _statement(model: ModelRow, deposit: DepositRow, names: list[str]) -> str:
    return (
        f"On {_time(deposit.finished_at)} the knowledge of {_listed(names)} ({len(names)} of {len(model.class_names)} "
        f"classes) was deposited from the model {model.name}: its target network, which answers since, has forgotten "
        "these classes as far as the figures below say, and a deposit module that can bring them back was stored apart "
        "from it, encrypted. The method is Learning with Recoverable Forgetting (Ye et al., ECCV 2022)."
    )


def _facts(session: Session, model: ModelRow, deposit: DepositRow, row: EvidenceRow) -> list[list[str]]:
    later = "" if row.revision == deposit.revision else f"; the deposit made revision {deposit.revision}"
    reference = evidence.reference_name(session, row)
    return [
        ["Model", f"{model.name}, {model.architecture['name']}, split after {model.split}"],
        ["Reason", deposit.reason],
        ["Requested", f"by {deposit.created_by}, {_time(deposit.created_at)}"],
        ["Deposit", deposit.id],
        ["Examined", f"{_time(row.finished_at)}, revision {row.revision} of the model{later}"],
        ["Compared with", f"{reference}, said never to have seen the classes" if reference else "no reference"],
        ["Can it be brought back?", _recoverable(session, model, deposit)],
    ]


def _objects(made: Any, examined: Any) -> list[list[str]]:
    """What was examined, as the vault has it; and of the deposit, where that is another by now."""
    objects = examined.details["examined"]
    told = [[title, objects[name]] for name, title in OBJECTS.items() if name in objects]
    for name in ("target", "module"):
        if (of_deposit := made.details[f"{name}_object"]) != objects.get(name):
            told.append([f"{OBJECTS[name]}, as the deposit made it", of_deposit])
    return told


def _recoverable(session: Session, model: ModelRow, deposit: DepositRow) -> str:
    if deposit.purged_at:
        purged = audit.intact(session, "deposit.purged", deposit.id)
        gone = purged.details["shred_effective_at"] if purged else None
        backups = f"backups hold its key until {gone[:10]}" if gone else "backups from before it may hold its key"
        return f"No: {deposit.purged_by} purged the deposit module on {_time(deposit.purged_at)}; {backups}."
    if deposit.restored_at:
        return f"It is: {deposit.restored_by} restored the classes on {_time(deposit.restored_at)}; they answer now."
    active = withdrawals.active(session, model.id)
    lent = sum(deposit.id in ids for ids in withdrawals.deposits_of(session, active).values())
    second = " whom a second person approves" if model.needs_second_person else ""
    now = {0: "no withdrawal shows", 1: "1 withdrawal shows"}.get(lent, f"{lent} withdrawals show")
    return f"Yes, by a custodian{second}, until the deposit is purged; {now} the classes now."


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f"“{name}”" for name in names[:LISTED]) + more


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
