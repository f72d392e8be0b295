"""What the console shows: models and their classes, deposits, requests for approval, the audit, keys."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from sqlalchemy.orm import Session

from app.access import service as access
from app.access.service import Actor, Role
from app.api.dependencies import ReadingDep
from app.audit import service as audit
from app.base.field_types import Id
from app.base.paging import PageRequest
from app.classes import service as classes
from app.console import timeline
from app.console.routing import Administrator, Anybody, Auditor, ConsoleRoute, page, see
from app.deposits import service as deposits
from app.deposits.service import UNFINISHED, DepositRow
from app.evidence import figures, plots
from app.evidence import service as evidence
from app.evidence.digests import digest
from app.registry import policies
from app.registry import service as registry
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow, ApprovalState
from app.withdrawals import service as withdrawals

router = APIRouter(prefix="/console", route_class=ConsoleRoute, include_in_schema=False)
PAGE = PageRequest(limit=50)


@router.get("")
async def start(actor: Anybody) -> Response:
    return see("/console/models")


@router.get("/models")
def list_models(request: Request, actor: Anybody, session: ReadingDep, cursor: str | None = None) -> Response:
    rows, following = registry.list_models(session, PageRequest(limit=PAGE.limit, cursor=cursor))
    states = {row.id: classes.state_counts(session, row) for row in rows}
    waiting, _ = second_person.list_all(session, PageRequest(limit=500), None, True)
    return page(request, "models.html", models=rows, states=states, waiting=len(waiting), following=following)


@router.get("/models/{name}")
def show_model(request: Request, name: str, actor: Anybody, session: ReadingDep) -> Response:
    model = registry.get(session, name)
    report = classes.report(session, name)
    of_model, more = deposits.list_of_model(session, name, PAGE)
    lent, more_lent = withdrawals.list_all(session, PAGE, name)
    active = withdrawals.active(session, model.id)
    lends = withdrawals.deposits_of(session, [*lent, *active])
    names = deposits.names_of(session, _all(session, of_model, lends))
    waiting, _ = second_person.list_all(session, PAGE, model.id, True)
    return page(
        request,
        "model.html",
        model=model,
        classes=report,
        counts=classes.count_states(report),
        policy=policies.of(model),
        deposits=of_model,
        more=more,
        names=names,
        lendable=[row for row in of_model if row.state == "deposited" and not row.restored_at],
        withdrawals=active,
        classes_lent={row.id: [label for one in lends[row.id] for label in names[one]] for row in active},
        waiting=waiting,
        described={row.id: _described(session, row) for row in waiting},
        timeline=timeline.of_model(session, model, (of_model, more), names, (lent, more_lent), lends),
    )


@router.get("/deposits/{deposit_id}")
def show_deposit(request: Request, deposit_id: str, actor: Anybody, session: ReadingDep) -> Response:
    return page(request, "deposit.html", **_deposit(session, deposit_id))


@router.get("/deposits/{deposit_id}/progress")
def show_progress(request: Request, deposit_id: str, actor: Anybody, session: ReadingDep) -> Response:
    """The part of the page that changes; once the deposit has ended, the whole page is loaded again."""
    row = deposits.get(session, deposit_id)
    response = page(request, "progress.html", **_progress(row))
    if row.state not in UNFINISHED:
        response.headers["HX-Refresh"] = "true"
    return response


@router.get("/deposits/{deposit_id}/evidence")
def show_gathering(request: Request, deposit_id: str, actor: Anybody, session: ReadingDep) -> Response:
    """The progress of an examination; once it has ended, the whole page is loaded again."""
    gathering = _gathering(session, deposit_id)
    if gathering is None:
        return Response(headers={"HX-Refresh": "true"})
    return page(request, "gathering.html", gathering=gathering)


@router.get("/approvals")
def list_approvals(request: Request, actor: Anybody, session: ReadingDep, cursor: str | None = None) -> Response:
    waiting, _ = second_person.list_all(session, PageRequest(limit=500), None, True)
    rows, following = second_person.list_all(session, PageRequest(limit=PAGE.limit, cursor=cursor), None, False)
    decided = [row for row in rows if second_person.state(row) != ApprovalState.WAITING]
    return page(
        request,
        "approvals.html",
        waiting=waiting,
        decided=decided,
        following=following,
        state=second_person.state,
        roles=second_person.ROLES,
        models=registry.by_ids(session, {row.model_id for row in (*waiting, *decided)}),
        described={row.id: _described(session, row) for row in (*waiting, *decided)},
    )


@router.get("/audit")
def show_audit(
    request: Request,
    actor: Auditor,
    session: ReadingDep,
    model: Annotated[Id, Query()] = "",
    action: Annotated[Id, Query()] = "",
    by: Annotated[Id, Query()] = "",
    subject: Annotated[Id, Query()] = "",
    cursor: str | None = None,
) -> Response:
    filters = {"model": model, "action": action, "actor": by, "subject": subject}
    given = {name: value for name, value in filters.items() if value}
    rows, following = audit.list_events(session, PageRequest(limit=PAGE.limit, cursor=cursor), **given)
    models, _ = registry.list_models(session, PageRequest(limit=500))
    head = audit.head(session)
    return page(
        request, "audit.html", events=rows, following=following, filters=filters, given=given, models=models, head=head
    )


@router.get("/audit/verification")
def verify_audit(request: Request, actor: Auditor, session: ReadingDep) -> Response:
    head, faults = audit.verify(session)
    return page(request, "verification.html", head=head, faults=faults)


@router.get("/keys")
def list_keys(request: Request, actor: Administrator, session: ReadingDep, cursor: str | None = None) -> Response:
    return keys_page(request, actor, session, cursor)


@router.get("/{path:path}")
async def nowhere(path: str, actor: Anybody) -> Response:
    raise HTTPException(404, "There is no such page; the menu leads to those that there are.")


def keys_page(request: Request, actor: Actor, session: Session, cursor: str | None = None, /, **made: Any) -> Response:
    rows, following = access.list_keys(session, PageRequest(limit=PAGE.limit, cursor=cursor))
    return page(request, "keys.html", keys=rows, following=following, roles=list(Role), own=actor.key_id, **made)


def _deposit(session: Session, deposit_id: str) -> dict[str, Any]:
    row = deposits.get(session, deposit_id)
    model = registry.by_id(session, row.model_id)
    active = withdrawals.active(session, model.id)
    lends = withdrawals.deposits_of(session, active)
    return {
        **_progress(row),
        "model": model,
        "names": deposits.class_names(session, row),
        "withdrawals": [one for one in active if row.id in lends[one.id]],
        "timeline": timeline.of_deposit(session, row),
        **_evidence(session, row),
    }


def _evidence(session: Session, row: DepositRow) -> dict[str, Any]:
    """The newest that was found, laid out, and an examination that has not ended."""
    known, _ = evidence.list_of_deposit(session, row.id, PageRequest(limit=1))
    newest = known[0] if known else None
    told = {"newest_evidence": newest, "gathering": _gathering(session, row.id)}
    shown = evidence.newest_found(session, row.id)
    if shown is None:
        return told
    assert shown.found is not None
    deposited = deposits.class_indices(session, row)
    budgets = enumerate(run["images_each"] for run in shown.found["relearning"].get("target", []))
    return {
        **told,
        "evidence": shown,
        "evidence_digest": digest(shown.found),
        "networks": figures.networks(shown.found),
        "rows": figures.rows(shown.found),
        "still_known": figures.still_known(shown.found),
        "rules": figures.RULES,
        "advice": figures.ADVICE,
        "pictures": plots.pictures(shown.found, deposited),
        "relearning": {images: plots.relearning(shown.found, number) for number, images in budgets},
        "bars": plots.bars,
    }


def _gathering(session: Session, deposit_id: str) -> evidence.EvidenceRow | None:
    known, _ = evidence.list_of_deposit(session, deposit_id, PageRequest(limit=1))
    return known[0] if known and known[0].state in evidence.UNFINISHED else None


def _progress(row: DepositRow) -> dict[str, Any]:
    return {"deposit": row, "is_unfinished": row.state in UNFINISHED, "curve": json.dumps(row.curve or {})}


def _all(session: Session, rows: Sequence[DepositRow], lends: dict[str, list[str]]) -> list[DepositRow]:
    """These deposits, and those that are lent besides."""
    others = {one for ids in lends.values() for one in ids} - {row.id for row in rows}
    return [*rows, *deposits.of_ids(session, sorted(others)).values()]


def _described(session: Session, row: ApprovalRow) -> str:
    """What is asked for, in a line."""
    wish = row.wish
    if row.act == Act.POLICY:
        person = "a second person" if wish["needs_second_person"] else "no second person"
        return f"a policy with {person} that will {wish['original']} what knows deposited classes"
    ids = wish["deposits"] if row.act == Act.WITHDRAW else [wish["deposit"]]
    names = deposits.names_of(session, deposits.of_ids(session, ids).values())
    label = ", ".join(name for of in names.values() for name in of)
    if row.act != Act.WITHDRAW:
        return f"{row.act} {label}"
    seconds, ends = wish.get("expires_in_seconds"), wish.get("expires_at")
    lasts = f"for {seconds / 3600:g} hours from the approval on" if seconds else f"until {ends or 'it is revoked'}"
    whom = "shown to everybody" if wish["visibility"] == "public" else "shown to who presents its token"
    return f"withdraw {label} for {wish['holder']}, {whom}, {lasts}"
