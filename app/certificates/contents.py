"""What a certificate of deposit says, the same in each format."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.deposits import service as deposits
from app.deposits.service import DepositRow
from app.errors import Problem
from app.evidence import figures, plots
from app.evidence import service as evidence
from app.evidence.digests import digest
from app.evidence.service import EvidenceRow
from app.paging import PageRequest
from app.registry.service import ModelRow
from app.withdrawals import service as withdrawals

LISTED = 30
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
    names = deposits.class_names(session, deposit)
    found, of_found = row.found, digest(row.found)
    examined = _event(session, "evidence.finished", row.id)
    if not (found["answers"].get("target") or {}).get("deposited"):
        raise NotExamined(f"evidence '{row.id}' has no held-out image of the deposited classes: it certifies nothing.")
    in_audit = {"deposit": deposit.id, "revision": row.revision, "digest": of_found}
    if examined is None or examined.details != in_audit or _event(session, "deposit.finished", deposit.id) is None:
        raise EvidenceChanged(f"evidence '{row.id}' is not what the audit says of its deposit, revision and figures.")
    deposited = [model.class_names.index(name) for name in names]
    return {
        "title": "Certificate of deposit",
        "classes": _listed(names),
        "statement": _statement(model, deposit, names),
        "warning": figures.still_known(found),
        "issued": _time(at),
        "facts": [*_facts(session, model, deposit, row), ["Digest of the figures (SHA-256)", of_found]],
        "audit": [
            ["Deposit", *_in_audit(session, "deposit.finished", deposit.id)],
            ["Evidence", *_in_audit(session, "evidence.finished", row.id)],
        ],
        "networks": figures.networks(found),
        "rows": [
            [one.measure, one.good, [one.values.get(name, "–") for name in figures.networks(found)]]
            for one in figures.rows(found)
        ],
        "images": found["images"],
        "missing": [[part, reason] for part, reason in found["missing"].items()],
        "names": names[:LISTED],
        "pictures": plots.pictures(found, deposited),
        "confidences": {name: plots.bars(of["confidences"]["deposited"]) for name, of in found["answers"].items()},
        "limits": LIMITS,
    }


def _statement(model: ModelRow, deposit: DepositRow, names: list[str]) -> str:
    return (
        f"On {_time(deposit.finished_at)} the knowledge of {_listed(names)} was deposited from the model {model.name}: "
        "its target network, which answers since, has forgotten these classes as far as the figures below say, and a "
        "deposit module that can bring them back was stored apart from it, encrypted. The method is Learning with "
        "Recoverable Forgetting (Ye et al., ECCV 2022)."
    )


def _facts(session: Session, model: ModelRow, deposit: DepositRow, row: EvidenceRow) -> list[list[str]]:
    made = _event(session, "deposit.finished", deposit.id)
    objects = made.details if made else {}
    return [
        ["Model", f"{model.name}, {model.architecture['name']}, split after {model.split}"],
        ["Reason", deposit.reason],
        ["Requested", f"by {deposit.created_by}, {_time(deposit.created_at)}"],
        ["Deposit", deposit.id],
        ["Examined", f"{_time(row.finished_at)}, revision {row.revision} of the model"],
        ["Can it be brought back?", _recoverable(session, model, deposit)],
        ["Target network, as stored (SHA-256)", str(objects.get("target_object"))],
        ["Deposit module, as stored (SHA-256)", str(objects.get("module_object"))],
        ["Upper part of the network (SHA-256)", str(model.upper_digest)],
    ]


def _recoverable(session: Session, model: ModelRow, deposit: DepositRow) -> str:
    if deposit.purged_at:
        return f"No: {deposit.purged_by} purged the deposit module on {_time(deposit.purged_at)}."
    if deposit.restored_at:
        return f"It is: {deposit.restored_by} restored the classes on {_time(deposit.restored_at)}; they answer now."
    active = withdrawals.active(session, model.id)
    lent = sum(deposit.id in ids for ids in withdrawals.deposits_of(session, active).values())
    second = " whom a second person approves" if model.needs_second_person else ""
    now = {0: "no withdrawal shows", 1: "1 withdrawal shows"}.get(lent, f"{lent} withdrawals show")
    return f"Yes, by a custodian{second}, until the deposit is purged; {now} the classes now."


def _event(session: Session, action: str, subject: str) -> Any:
    found, _ = audit.list_events(session, PageRequest(limit=1), action=action, subject=subject)
    return found[0] if found else None


def _in_audit(session: Session, action: str, subject: str) -> list[str]:
    event = _event(session, action, subject)
    return [f"event {event.number}", event.digest] if event else ["none", ""]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "–"
