"""What the console changes: a form calls the service that the API's route calls, and leads to where that shows."""

from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, BackgroundTasks, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from app.access import service as access
from app.access.schemas import KeyCreate
from app.access.service import Actor, Forbidden, Role, Unauthenticated, demand
from app.api.attachments import attached
from app.api.audit_export import export_response
from app.api.authentication import identified
from app.api.dependencies import (
    DatabaseDep,
    DecodersDep,
    DoorbellDep,
    EngineDep,
    ReadingDep,
    SessionDep,
    SettingsDep,
    VaultDep,
)
from app.approvals import service as approvals
from app.audit.schemas import AuditExport
from app.base.field_types import Id, Reason
from app.certificates import service as certificates
from app.certificates.signatures import Format
from app.console import sign_in
from app.console.pages import keys_page
from app.console.routing import (
    Administrator,
    Anybody,
    Auditor,
    ConsoleRoute,
    Custodian,
    Examiner,
    Operator,
    page,
    see,
)
from app.deposits import service as deposits
from app.evidence import service as evidence
from app.evidence.jobs import JOBS as EXAMINATIONS
from app.evidence.schemas import EvidenceCreate
from app.idempotency import service as idempotency
from app.idempotency.service import AnswerMissing, Claim
from app.inference import service as inference
from app.inference.views import Asked
from app.purges import service as purges
from app.registry import policies
from app.registry import service as registry
from app.registry.policies import Policy
from app.registry.service import ModelRow
from app.restorations import service as restorations
from app.second_person.service import ApprovalRow
from app.withdrawals import service as withdrawals
from app.withdrawals.schemas import WithdrawalCreate, WithdrawalRenewal
from app.withdrawals.service import WithdrawalRow

router = APIRouter(prefix="/console", route_class=ConsoleRoute, include_in_schema=False)

Line = Annotated[str, Form(max_length=200)]
Why = Annotated[Reason, Form()]
View = Annotated[Id, Form()]
Names = Annotated[list[str], Form(default_factory=list)]
SECONDS = {"hour": 3600, "day": 86400, "week": 7 * 86400, "30 days": 30 * 86400, "until revoked": None}
Duration = Annotated[Literal["hour", "day", "week", "30 days", "until revoked"], Form()]
Once = Annotated[str, Form(min_length=16, max_length=64)]


# Signing in and out.


@router.get("/sign-in")
async def ask_who(request: Request, next: Annotated[str, Query(max_length=300)] = "") -> Response:
    return page(request, "sign_in.html", next=next)


@router.post("/sign-in")
async def begin(
    request: Request,
    key: Annotated[str, Form(max_length=sign_in.MAX_CHARACTERS)],
    next: Annotated[str, Form(max_length=300)] = "",
) -> Response:
    try:
        await identified(request, key.strip())
    except Forbidden as problem:
        return page(request, "sign_in.html", 403, next=next, told=problem.detail)
    except Unauthenticated:
        told = "This key is not known, has ended or was revoked. An administrator makes a new one."
        return page(request, "sign_in.html", 401, next=next, told=told)
    response = see(next if next.startswith("/console/") else "/console/models")
    sign_in.begin(request, response, key.strip())
    return response


@router.post("/sign-out")
async def end(request: Request) -> Response:
    response = see("/console/sign-in")
    sign_in.end(request, response)
    return response


# Withdrawals.


@router.post("/withdrawals")
def withdraw(
    actor: Custodian,
    session: SessionDep,
    engine: EngineDep,
    deposit: Names,
    holder: Line,
    reason: Why,
    lasts: Duration,
    once: Once,
    visibility: Annotated[str, Form()] = "public",
) -> Response:
    """A form that is sent twice, by a double click, withdraws once."""
    asked = WithdrawalCreate.model_validate(
        {
            "deposits": deposit,
            "holder": holder,
            "reason": reason,
            "visibility": visibility,
            "expires_in_seconds": SECONDS[lasts],
        }
    )
    if not _was_sent_before(session, actor, once):
        engine.prepare(asked.deposits)
        with suppress(AnswerMissing):  # both at once, and the other one is carried out
            return _see_model(session, withdrawals.open(session, actor, asked))
    with session.begin():
        model = registry.by_id(session, deposits.get(session, asked.deposits[0]).model_id)
    return see("/console/approvals") if model.needs_second_person else _see_model(session, model)


@router.post("/withdrawals/{withdrawal_id}/renewal")
def renew(withdrawal_id: str, actor: Custodian, session: SessionDep, lasts: Duration, reason: Why) -> Response:
    renewal = WithdrawalRenewal.model_validate({"reason": reason, "expires_in_seconds": SECONDS[lasts]})
    return _see_model(session, withdrawals.renew(session, actor, withdrawal_id, renewal))


@router.post("/withdrawals/{withdrawal_id}/revocation")
def revoke(withdrawal_id: str, actor: Custodian, session: SessionDep) -> Response:
    return _see_model(session, withdrawals.revoke(session, actor, withdrawal_id))


@router.post("/withdrawals/{withdrawal_id}/token")
def issue_token(request: Request, withdrawal_id: str, actor: Custodian, session: SessionDep, once: Once) -> Response:
    """Shown once, on the page that answers the form."""
    with session.begin():
        model = registry.by_id(session, withdrawals.get(session, withdrawal_id).model_id)
    if _was_sent_before(session, actor, once):
        return see(f"/console/models/{model.name}")
    token = withdrawals.issue_token(session, actor, withdrawal_id)
    return page(request, "token.html", token=token, model=model)


# Deposits.


@router.post("/deposits/{deposit_id}/cancellation")
def cancel(deposit_id: str, actor: Operator, session: SessionDep, vault: VaultDep) -> Response:
    deposits.cancel(session, vault, actor, deposit_id)
    return see(f"/console/deposits/{deposit_id}")


@router.post("/deposits/{deposit_id}/evidence")
def examine(
    deposit_id: str, actor: Examiner, session: SessionDep, doorbell: DoorbellDep, tasks: BackgroundTasks
) -> Response:
    row = evidence.request(session, actor, deposit_id, EvidenceCreate())
    tasks.add_task(doorbell.ring, EXAMINATIONS.task, row.id)
    return see(f"/console/deposits/{deposit_id}#beyond")


@router.get("/evidence/{evidence_id}/certificate.{format}")
def certify(
    evidence_id: str, format: Format, actor: Anybody, reading: ReadingDep, session: SessionDep, vault: VaultDep
) -> Response:
    return attached(certificates.issue(reading, session, vault, actor, evidence_id, format), evidence_id, format)


@router.post("/evidence/{evidence_id}/cancellation")
def cancel_examination(evidence_id: str, actor: Examiner, session: SessionDep, vault: VaultDep) -> Response:
    row = evidence.cancel(session, vault, actor, evidence_id)
    return see(f"/console/deposits/{row.deposit_id}#beyond")


@router.post("/deposits/{deposit_id}/restoration")
def restore(deposit_id: str, actor: Custodian, session: SessionDep, engine: EngineDep, reason: Why) -> Response:
    engine.prepare([deposit_id])
    row = restorations.restore(session, actor, deposit_id, reason)
    return see("/console/approvals") if isinstance(row, ApprovalRow) else see(f"/console/deposits/{deposit_id}")


@router.post("/deposits/{deposit_id}/restoration/end")
def end_restoration(deposit_id: str, actor: Custodian, session: SessionDep) -> Response:
    restorations.end(session, actor, deposit_id)
    return see(f"/console/deposits/{deposit_id}")


@router.post("/deposits/{deposit_id}/purge")
def purge(
    deposit_id: str,
    actor: Administrator,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    settings: SettingsDep,
    engine: EngineDep,
    confirmation: Annotated[str, Form(max_length=1_000_000)],
    reason: Why,
) -> Response:
    """confirmation: the classes of the deposit as the page shows them, typed."""
    with session.begin():
        names = deposits.class_names(session, deposits.get(session, deposit_id))
    if confirmation.strip() != ", ".join(names):
        raise purges.ClassesNotConfirmed(
            f"a purge cannot be undone: type the classes as they are shown, {', '.join(names)}, to confirm it."
        )
    try:
        purged = purges.purge(session, database, vault, settings, actor, deposit_id, names, reason)
    finally:
        engine.drop_shredded()
    return see("/console/approvals") if isinstance(purged, ApprovalRow) else see(f"/console/deposits/{deposit_id}")


# Policies and the second person.


@router.post("/models/{name}/policy")
def change_policy(
    name: str,
    actor: Administrator,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    engine: EngineDep,
    version: Annotated[int, Form(ge=0, lt=1 << 31)],
    original: Annotated[Literal["seal", "destroy"], Form()],
    reason: Why,
    needs_second_person: Annotated[bool, Form()] = False,
) -> Response:
    try:
        row = policies.change(
            session, database, vault, actor, name, version, Policy(original, needs_second_person), reason
        )
    finally:
        engine.drop_shredded()
    return _see_model(session, row)


@router.post("/approvals/{approval_id}/approval")
def approve(
    approval_id: str,
    actor: Custodian,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    settings: SettingsDep,
    engine: EngineDep,
) -> Response:
    approvals.carry_out(session, database, vault, settings, engine, actor, approval_id)
    return see("/console/approvals")


@router.post("/approvals/{approval_id}/refusal")
def refuse(approval_id: str, actor: Custodian, session: SessionDep, reason: Why) -> Response:
    approvals.refuse(session, actor, approval_id, reason)
    return see("/console/approvals")


# Trying an image.


@router.post("/models/{name}/comparison")
async def compare(
    request: Request,
    name: str,
    actor: Anybody,
    engine: EngineDep,
    decoders: DecodersDep,
    image: Annotated[UploadFile, File()],
    left: View = "served",
    right: View = "target",
) -> Response:
    """One image against two views. view: `served`, `target`, or the id of a public withdrawal."""
    content = await image.read()
    answers = []
    for view in (left, right):
        if view == "target":
            demand(actor, Role.ADMINISTRATOR)
        asked = {"served": Asked(), "target": Asked(is_bare=True)}.get(view, Asked(withdrawal_id=view))
        answers.append((view, await inference.predict(engine, decoders, asked, name, content, 5)))
    return page(request, "comparison.html", answers=answers)


# The audit and keys.


@router.get("/audit/export")
def export_audit(actor: Auditor, database: DatabaseDep, query: Annotated[AuditExport, Query()]) -> StreamingResponse:
    return export_response(database, query)


@router.post("/keys")
def create_key(
    request: Request,
    actor: Administrator,
    session: SessionDep,
    name: Line,
    role: Names,
    lasts: Duration,
    once: Once,
) -> Response:
    """The key is shown once, on the page that answers the form."""
    if _was_sent_before(session, actor, once):
        return see("/console/keys")
    asked = KeyCreate.model_validate({"name": name, "roles": role, "expires_in_seconds": SECONDS[lasts]})
    row, key = access.create_key(session, actor, asked.name, asked.roles, asked.end())
    with session.begin():
        return keys_page(request, actor, session, made=row, key=key)


@router.post("/keys/{key_id}/revocation")
def revoke_key(key_id: str, actor: Administrator, session: SessionDep) -> Response:
    access.revoke_key(session, actor, key_id)
    return see("/console/keys")


def _was_sent_before(session: Session, actor: Actor, once: str) -> bool:
    """Whether this very form was: the page that answered it, loaded again, would make another secret, a second click
    another withdrawal. If not, what is changed next is what it asked for.
    """
    claim = Claim(actor.key_id, f"form:{once}", request_digest=once)
    try:
        with session.begin():
            idempotency.find(session, claim)
    except AnswerMissing:  # carried out, and what it showed is not kept
        return True
    idempotency.bind(session, claim)
    return False


def _see_model(session: Session, row: ModelRow | WithdrawalRow | ApprovalRow) -> Response:
    """Where the change shows: at the model, or among what waits for a second person."""
    if isinstance(row, ApprovalRow):
        return see("/console/approvals")
    with session.begin():
        model = row if isinstance(row, ModelRow) else registry.by_id(session, row.model_id)
    return see(f"/console/models/{model.name}")
