"""The forms of the console. Each calls the same service as the API's route, then leads to the page with the result."""

from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.access import service as access
from app.access.schemas import KeyCreate
from app.access.service import Actor, Forbidden, Role, Unauthenticated, demand
from app.api.attachments import attached
from app.api.audit_export import export_response
from app.api.authentication import identify
from app.api.dependencies import (
    DatabaseDep,
    DecodersDep,
    DoorbellDep,
    EngineDep,
    InTurn,
    ReadingDep,
    SessionDep,
    SettingsDep,
    VaultDep,
    ViewsDep,
)
from app.api.tensor_route import in_time
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
    Decider,
    Examiner,
    Operator,
    page,
    redirect,
)
from app.deposits import service as deposits
from app.evidence import service as evidence
from app.evidence.jobs import JOBS as EXAMINATIONS
from app.evidence.schemas import EvidenceCreate, TrainedReference
from app.hardenings import base
from app.hardenings import service as hardenings
from app.hardenings.jobs import JOBS as HARDENINGS
from app.hardenings.schemas import HardeningCreate
from app.idempotency import service as idempotency
from app.idempotency.service import AnswerMissing, Claim
from app.inference import service as inference
from app.inference.views import SERVED, ViewSelector
from app.measurements import service as measurements
from app.measurements.jobs import JOBS as MEASUREMENTS
from app.measurements.schemas import MeasurementCreate
from app.policies import service as policies
from app.purges import service as purges
from app.rebases import service as rebases
from app.rebases.jobs import JOBS as REBASES
from app.rebases.schemas import RebaseCreate
from app.registry import service as registry
from app.registry.policies import BOUNDS
from app.registry.service import ModelRow
from app.removals import service as removals
from app.restorations import service as restorations
from app.second_person.service import ApprovalRow
from app.withdrawals import service as withdrawals
from app.withdrawals.schemas import WithdrawalCreate, WithdrawalRenewal
from app.withdrawals.service import WithdrawalRow

router = APIRouter(prefix="/console", route_class=ConsoleRoute, include_in_schema=False)

Line = Annotated[str, Form(max_length=200)]
ReasonField = Annotated[Reason, Form()]
View = Annotated[Id, Form()]
Names = Annotated[list[str], Form(default_factory=list)]
SECONDS = {"hour": 3600, "day": 86400, "week": 7 * 86400, "30 days": 30 * 86400, "until revoked": None}
Duration = Annotated[Literal["hour", "day", "week", "30 days", "until revoked"], Form()]
Points = Annotated[float | None, Form(ge=0, le=100, allow_inf_nan=False)]
Once = Annotated[str, Form(min_length=16, max_length=64)]


# Sign in and out.


@router.get("/sign-in")
async def show_sign_in(request: Request, next: Annotated[str, Query(max_length=300)] = "") -> Response:
    return page(request, "sign_in.html", next=next)


@router.post("/sign-in")
async def sign_in_with_key(
    request: Request,
    key: Annotated[str, Form(max_length=sign_in.MAX_CHARACTERS)],
    next: Annotated[str, Form(max_length=300)] = "",
) -> Response:
    try:
        actor = await identify(request, key.strip())
    except Forbidden as problem:
        return page(request, "sign_in.html", 403, next=next, refusal=problem.detail)
    except Unauthenticated:
        refusal = "This key is unknown, expired or revoked. Ask an administrator for a new one."
        return page(request, "sign_in.html", 401, next=next, refusal=refusal)
    response = redirect(next if next.startswith("/console/") else "/console/models")
    await run_in_threadpool(sign_in.begin, request, response, actor, key.strip())
    return response


@router.post("/sign-out")
def sign_out(request: Request) -> Response:
    response = redirect("/console/sign-in")
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
    reason: ReasonField,
    lasts: Duration,
    once: Once,
    visibility: Annotated[str, Form()] = "public",
) -> Response:
    """A form that is sent twice, for example by a double click, makes one withdrawal."""
    body = WithdrawalCreate.model_validate(
        {
            "deposits": deposit,
            "holder": holder,
            "reason": reason,
            "visibility": visibility,
            "expires_in_seconds": SECONDS[lasts],
        }
    )
    if not _was_sent_before(session, actor, once):
        engine.prepare(body.deposits)
        with suppress(AnswerMissing):  # the same form came twice at once, and the other request carries it out
            return _show_model(session, withdrawals.open(session, actor, body))
    with session.begin():
        model = registry.by_id(session, deposits.get(session, body.deposits[0]).model_id)
    return redirect("/console/approvals") if model.needs_second_person else _show_model(session, model)


@router.post("/withdrawals/{withdrawal_id}/renewal")
def renew(withdrawal_id: str, actor: Custodian, session: SessionDep, lasts: Duration, reason: ReasonField) -> Response:
    renewal = WithdrawalRenewal.model_validate({"reason": reason, "expires_in_seconds": SECONDS[lasts]})
    return _show_model(session, withdrawals.renew(session, actor, withdrawal_id, renewal))


@router.post("/withdrawals/{withdrawal_id}/revocation")
def revoke(withdrawal_id: str, actor: Custodian, session: SessionDep) -> Response:
    return _show_model(session, withdrawals.revoke(session, actor, withdrawal_id))


@router.post("/withdrawals/{withdrawal_id}/token")
def issue_token(request: Request, withdrawal_id: str, actor: Custodian, session: SessionDep, once: Once) -> Response:
    """The page that answers the form is the only one to show the token."""
    with session.begin():
        model = registry.by_id(session, withdrawals.get(session, withdrawal_id).model_id)
    if _was_sent_before(session, actor, once):
        return redirect(f"/console/models/{model.name}")
    token = withdrawals.issue_token(session, actor, withdrawal_id)
    return page(request, "token.html", token=token, model=model)


# Deposits.


@router.post("/deposits/{deposit_id}/cancellation")
def cancel(deposit_id: str, actor: Operator, session: SessionDep, vault: VaultDep) -> Response:
    deposits.cancel(session, vault, actor, deposit_id)
    return redirect(f"/console/deposits/{deposit_id}")


@router.post("/deposits/{deposit_id}/evidence")
def examine(
    deposit_id: str,
    actor: Examiner,
    session: SessionDep,
    doorbell: DoorbellDep,
    tasks: BackgroundTasks,
    full: Annotated[bool, Form()] = False,
    train_on: Annotated[Id, Form()] = "",
) -> Response:
    reference = TrainedReference(train_on=train_on) if train_on else None
    wish = EvidenceCreate(reference=reference, attackers="full" if full else "small")
    row = evidence.request(session, actor, deposit_id, wish)
    tasks.add_task(doorbell.ring, EXAMINATIONS.task, row.id)
    return redirect(f"/console/deposits/{deposit_id}#beyond")


@router.post("/models/{name}/rebases")
def rebase(
    name: str,
    actor: Operator,
    session: SessionDep,
    doorbell: DoorbellDep,
    tasks: BackgroundTasks,
    reason: ReasonField,
) -> Response:
    """With the deposit sets that were kept."""
    row = rebases.request(session, actor, name, RebaseCreate(reason=reason))
    if not isinstance(row, ApprovalRow):
        tasks.add_task(doorbell.ring, REBASES.task, row.id)
    return redirect(f"/console/models/{name}#rebase")


@router.post("/rebases/{rebase_id}/cancellation")
def cancel_rebase(rebase_id: str, actor: Operator, session: SessionDep, vault: VaultDep) -> Response:
    row = rebases.cancel(session, vault, actor, rebase_id)
    with session.begin():
        name = registry.by_id(session, row.model_id).name
    return redirect(f"/console/models/{name}#rebase")


@router.post("/models/{name}/hardenings")
def harden(name: str, actor: Operator, session: SessionDep, doorbell: DoorbellDep, tasks: BackgroundTasks) -> Response:
    row = hardenings.request(session, actor, name, HardeningCreate())
    tasks.add_task(doorbell.ring, HARDENINGS.task, row.id)
    return redirect(f"/console/models/{name}#hardening")


@router.post("/models/{name}/base")
def make_base(
    name: str,
    actor: Administrator,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    settings: SettingsDep,
    engine: EngineDep,
    confirmation: Annotated[str, Form(max_length=200)],
    reason: ReasonField,
) -> Response:
    """confirmation: the name of the model, typed."""
    try:
        based = base.make_base(session, database, vault, settings, actor, name, confirmation.strip(), reason)
    finally:
        engine.drop_shredded()
    return _show_model(session, based if isinstance(based, ApprovalRow) else based.model)


@router.post("/hardenings/{hardening_id}/cancellation")
def cancel_hardening(hardening_id: str, actor: Operator, session: SessionDep, vault: VaultDep) -> Response:
    row = hardenings.cancel(session, vault, actor, hardening_id)
    with session.begin():
        name = registry.by_id(session, row.model_id).name
    return redirect(f"/console/models/{name}#hardening")


@router.post("/models/{name}/measurements")
def measure(name: str, actor: Examiner, session: SessionDep, doorbell: DoorbellDep, tasks: BackgroundTasks) -> Response:
    row = measurements.request(session, actor, name, MeasurementCreate())
    tasks.add_task(doorbell.ring, MEASUREMENTS.task, row.id)
    return redirect(f"/console/models/{name}")


@router.get("/evidence/{evidence_id}/certificate.{format}", dependencies=[InTurn])
def certify(
    evidence_id: str, format: Format, actor: Anybody, reading: ReadingDep, session: SessionDep, vault: VaultDep
) -> Response:
    return attached(certificates.issue(reading, session, vault, actor, evidence_id, format), evidence_id, format)


@router.post("/evidence/{evidence_id}/cancellation")
def cancel_examination(evidence_id: str, actor: Examiner, session: SessionDep, vault: VaultDep) -> Response:
    row = evidence.cancel(session, vault, actor, evidence_id)
    return redirect(f"/console/deposits/{row.deposit_id}#beyond")


@router.post("/deposits/{deposit_id}/restoration")
def restore(deposit_id: str, actor: Custodian, session: SessionDep, engine: EngineDep, reason: ReasonField) -> Response:
    engine.prepare([deposit_id])
    row = restorations.restore(session, actor, deposit_id, reason)
    return _show_deposit(row, deposit_id)


@router.post("/deposits/{deposit_id}/restoration/end")
def end_restoration(deposit_id: str, actor: Custodian, session: SessionDep) -> Response:
    restorations.end(session, actor, deposit_id)
    return redirect(f"/console/deposits/{deposit_id}")


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
    reason: ReasonField,
) -> Response:
    """confirmation: the classes of the deposit, typed as the page shows them."""
    with session.begin():
        names = deposits.class_names(session, deposits.get(session, deposit_id))
    if confirmation.strip() != ", ".join(names):
        raise purges.ClassesNotConfirmed(
            f"A purge cannot be undone. To confirm it, type the classes exactly as shown: {', '.join(names)}"
        )
    try:
        purged = purges.purge(session, database, vault, settings, actor, deposit_id, names, reason)
    finally:
        engine.drop_shredded()
    return _show_deposit(purged, deposit_id)


# Policies and approvals by a second person.


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
    reason: ReasonField,
    needs_second_person: Annotated[bool, Form()] = False,
    max_preserved_loss: Points = None,
    max_module_loss: Points = None,
    max_total_loss: Points = None,
    hardening: Annotated[Literal["served", "export", "none"] | None, Form()] = None,
    scrub: Annotated[Literal["purge", "deposit"] | None, Form()] = None,
) -> Response:
    bounds = dict(zip(BOUNDS, (max_preserved_loss, max_module_loss, max_total_loss), strict=True))
    wanted: dict[str, Any] = {"original": original, "needs_second_person": needs_second_person}
    wanted |= {"hardening": hardening} if hardening else {}
    wanted |= {"scrub": scrub} if scrub else {}
    wanted |= {bound: points for bound, points in bounds.items() if points is not None}
    try:
        row = policies.change(session, database, vault, actor, name, version, wanted, reason)
    finally:
        engine.drop_shredded()
    return _show_model(session, row)


@router.post("/models/{name}/removal")
def remove_model(
    name: str,
    actor: Administrator,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    settings: SettingsDep,
    engine: EngineDep,
    confirmation: Annotated[str, Form(max_length=200)],
    reason: ReasonField,
) -> Response:
    """confirmation: the name of the model, typed."""
    try:
        removed = removals.remove(session, database, vault, settings, actor, name, confirmation.strip(), reason)
    finally:
        engine.drop_shredded()
    return redirect(f"/console/models/{name}" if isinstance(removed, ApprovalRow) else "/console/models")


@router.post("/approvals/{approval_id}/approval")
def approve(
    approval_id: str,
    actor: Decider,
    session: SessionDep,
    database: DatabaseDep,
    vault: VaultDep,
    settings: SettingsDep,
    engine: EngineDep,
    doorbell: DoorbellDep,
) -> Response:
    approvals.carry_out(session, database, vault, settings, engine, doorbell, actor, approval_id)
    return redirect("/console/approvals")


@router.post("/approvals/{approval_id}/refusal")
def refuse(approval_id: str, actor: Decider, session: SessionDep, vault: VaultDep, reason: ReasonField) -> Response:
    approvals.refuse(session, vault, actor, approval_id, reason)
    return redirect("/console/approvals")


# Try an image.


@router.post("/models/{name}/comparison")
async def compare(
    request: Request,
    name: str,
    actor: Anybody,
    engine: EngineDep,
    decoders: DecodersDep,
    views: ViewsDep,
    image: Annotated[UploadFile, File()],
    left: View = "served",
    right: View = "target",
) -> Response:
    """Ask two views about one image. A view is `served`, `target`, or the id of a public withdrawal."""
    content = await image.read()
    answers = []
    async with in_time(request):
        for view in (left, right):
            if view == "target":
                demand(actor, Role.ADMINISTRATOR)
            named = {"served": SERVED, "target": ViewSelector(is_target_only=True)}
            selector = named.get(view, ViewSelector(withdrawal_id=view))
            answered, predictions = await inference.predict(engine, decoders, actor, selector, name, content, 5)
            views.append(answered)
            answers.append((view, predictions))
    return page(request, "comparison.html", answers=answers)


# Audit and keys.


@router.get("/audit/export")
def export_audit(actor: Auditor, database: DatabaseDep, query: Annotated[AuditExport, Query()]) -> StreamingResponse:
    return export_response(database, actor, query)


@router.post("/keys")
def create_key(
    request: Request,
    actor: Administrator,
    session: SessionDep,
    name: Line,
    role: Names,
    lasts: Duration,
    once: Once,
    models: Annotated[str, Form(max_length=6500)] = "",
) -> Response:
    """The page that answers the form is the only one to show the key. models: patterns, separated by spaces."""
    if _was_sent_before(session, actor, once):
        return redirect("/console/keys")
    bound_to = {"models": models.split()} if models.strip() else {}
    body = KeyCreate.model_validate({"name": name, "roles": role, "expires_in_seconds": SECONDS[lasts], **bound_to})
    row, key = access.create_key(session, actor, body.name, body.roles, body.end(), body.models)
    with session.begin():
        return keys_page(request, actor, session, new_key=row, secret=key)


@router.post("/keys/{key_id}/revocation")
def revoke_key(key_id: str, actor: Administrator, session: SessionDep) -> Response:
    access.revoke_key(session, actor, key_id)
    return redirect("/console/keys")


def _was_sent_before(session: Session, actor: Actor, once: str) -> bool:
    """Return whether this form was already sent; if not, the session's next change carries it out.

    Otherwise a reload of the answer would make a second secret, and a second click a second withdrawal.
    """
    claim = Claim(actor.key_id, f"form:{once}", request_digest=once)
    try:
        with session.begin():
            idempotency.find(session, claim)
    except AnswerMissing:  # it was carried out; its answer is not stored
        return True
    idempotency.bind(session, claim)
    return False


def _show_deposit(result: object, deposit_id: str) -> Response:
    """Lead to the deposit, or to the requests for approval if a second person must approve first."""
    return redirect("/console/approvals" if isinstance(result, ApprovalRow) else f"/console/deposits/{deposit_id}")


def _show_model(session: Session, row: ModelRow | WithdrawalRow | ApprovalRow) -> Response:
    """Lead to the model, or to the requests for approval if a second person must approve first."""
    if isinstance(row, ApprovalRow):
        return redirect("/console/approvals")
    with session.begin():
        model = row if isinstance(row, ModelRow) else registry.by_id(session, row.model_id)
    return redirect(f"/console/models/{model.name}")
