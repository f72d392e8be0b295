"""The pages of the console: models and their classes, deposits, requests for approval, the audit, keys."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from sqlalchemy.orm import Session

from app.access import service as access
from app.access.service import Actor, Role
from app.api.dependencies import DatabaseDep, InTurn, ReadingDep, SessionDep
from app.audit import anchoring
from app.audit import service as audit
from app.base.field_types import Id
from app.base.paging import PageRequest
from app.certificates.contents import LIMITS
from app.classes import service as classes
from app.console import timeline
from app.console.routing import Administrator, Anybody, Auditor, ConsoleRoute, page, redirect
from app.datasets import service as datasets
from app.datasets.service import Purpose
from app.deposits import groups, scrubbed
from app.deposits import service as deposits
from app.deposits.schemas import DepositConfigIn
from app.deposits.service import UNFINISHED, DepositRow, Kind
from app.evidence import attack_figures, claims, figures, plots
from app.evidence import service as evidence
from app.evidence.digests import digest
from app.hardenings import service as hardenings
from app.measurements import service as measurements
from app.rebases import service as rebases
from app.registry import policies
from app.registry import service as registry
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow, ApprovalState
from app.withdrawals import service as withdrawals
from lirf_core.architectures import warnings_of

router = APIRouter(prefix="/console", route_class=ConsoleRoute, include_in_schema=False)
PAGE = PageRequest(limit=50)


@router.get("")
async def start(actor: Anybody) -> Response:
    return redirect("/console/models")


@router.get("/models")
def list_models(request: Request, actor: Anybody, session: ReadingDep, cursor: str | None = None) -> Response:
    rows, following = registry.list_models(session, PageRequest(limit=PAGE.limit, cursor=cursor))
    states = {row.id: classes.state_counts(session, row) for row in rows}
    waiting, _ = second_person.list_all(session, PageRequest(limit=500), None, True)
    alarm = anchoring.alarm(session) if actor.has(Role.AUDITOR) and not actor.domain.is_bound else None
    return page(
        request, "models.html", models=rows, states=states, waiting=len(waiting), following=following, alarm=alarm
    )


@router.get("/models/{name}")
def show_model(request: Request, name: str, actor: Anybody, session: ReadingDep) -> Response:
    model = registry.get(session, name)
    report = classes.report(session, name)
    of_model, more = deposits.list_of_model(session, name, PAGE)
    recent, more_withdrawals = withdrawals.list_all(session, PAGE, name)
    active = withdrawals.active(session, model.id)
    deposit_ids = withdrawals.deposits_of(session, [*recent, *active])
    names = deposits.names_of(session, _all(session, of_model, deposit_ids))
    waiting, _ = second_person.list_all(session, PAGE, model.id, True)
    return page(
        request,
        "model.html",
        model=model,
        warnings=warnings_of(str(model.architecture["name"])),
        classes=report,
        counts=classes.count_states(report),
        policy=policies.of(model),
        hardening=hardenings.status(session, model),
        rebase=rebases.newest(session, model.id),
        deposits=of_model,
        more=more,
        names=names,
        withdrawable=[row for row in of_model if row.state == "deposited" and not row.restored_at],
        withdrawals=active,
        withdrawn_classes={row.id: [name for of in deposit_ids[row.id] for name in names[of]] for row in active},
        waiting=waiting,
        described={row.id: _described(session, row) for row in waiting},
        timeline=timeline.of_model(session, model, (of_model, more), names, (recent, more_withdrawals), deposit_ids),
    )


@router.get("/deposits/{deposit_id}")
def show_deposit(request: Request, deposit_id: str, actor: Anybody, session: ReadingDep) -> Response:
    return page(request, "deposit.html", **_deposit(session, deposit_id))


@router.get("/deposits/{deposit_id}/progress")
def show_progress(request: Request, deposit_id: str, actor: Anybody, session: ReadingDep) -> Response:
    """The part of the page that changes. Once the deposit has ended, the browser reloads the whole page."""
    row = deposits.get(session, deposit_id)
    response = page(request, "progress.html", **_progress(row))
    if row.state not in UNFINISHED:
        response.headers["HX-Refresh"] = "true"
    return response


@router.get("/deposits/{deposit_id}/evidence")
def show_gathering(request: Request, deposit_id: str, actor: Anybody, session: ReadingDep) -> Response:
    """The progress of an examination. Once it has ended, the browser reloads the whole page."""
    newest = _newest_examination(session, deposit_id)
    if newest is None or newest.state not in evidence.UNFINISHED:
        return Response(headers={"HX-Refresh": "true"})
    return page(request, "gathering.html", gathering=newest)


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
    active_filters = {name: value for name, value in filters.items() if value}
    rows, following = audit.list_events(session, PageRequest(limit=PAGE.limit, cursor=cursor), **active_filters)
    models, _ = registry.list_models(session, PageRequest(limit=500))
    head = None if actor.domain.is_bound else audit.head(session)
    return page(
        request,
        "audit.html",
        events=rows,
        following=following,
        filters=filters,
        active_filters=active_filters,
        models=models,
        head=head,
        alarm=None if actor.domain.is_bound else anchoring.alarm(session),
    )


@router.get("/audit/verification", dependencies=[InTurn])
def verify_audit(request: Request, actor: Auditor, database: DatabaseDep) -> Response:
    access.demand_unbound(actor)
    head, faults = audit.verify(database)
    return page(request, "verification.html", head=head, faults=faults)


@router.get("/keys")
def list_keys(request: Request, actor: Administrator, session: SessionDep, cursor: str | None = None) -> Response:
    with session.begin():
        return keys_page(request, actor, session, cursor)


@router.get("/{path:path}")
async def nowhere(path: str, actor: Anybody) -> Response:
    raise HTTPException(404, "There is no such page. The menu leads to all pages.")


def keys_page(request: Request, actor: Actor, session: Session, cursor: str | None = None, /, **new: Any) -> Response:
    rows, following = access.list_keys(session, actor, PageRequest(limit=PAGE.limit, cursor=cursor))
    return page(request, "keys.html", keys=rows, following=following, roles=list(Role), own=actor.key_id, **new)


def _deposit(session: Session, deposit_id: str) -> dict[str, Any]:
    row = deposits.get(session, deposit_id)
    model = registry.by_id(session, row.model_id)
    active = withdrawals.active(session, model.id)
    deposit_ids = withdrawals.deposits_of(session, active)
    names = deposits.class_names(session, row)
    current = measurements.current(session, [row]).get(row.id)
    names_of_later = deposits.names_of(session, scrubbed.known_others(session, [row]).get(row.id, []))
    return {
        **_progress(row),
        "model": model,
        "names": names,
        "groups": {
            deposit_id: [model.class_names[index] for index in indices]
            for deposit_id, indices in groups.of_job(session, [row]).get(row.id, {}).items()
        },
        "still_known": [name for names_of_one in names_of_later.values() for name in names_of_one],
        "scrub_losses": [one.scrubbed_loss for one in scrubbed.knowing(session, row)],
        "figures": current,
        "hardening": hardenings.status(session, model),
        "warnings": measurements.warnings(row, names, current),
        "withdrawals": [one for one in active if row.id in deposit_ids[one.id]],
        "timeline": timeline.of_deposit(session, row),
        **_evidence(session, row),
    }


def _evidence(session: Session, row: DepositRow) -> dict[str, Any]:
    """The newest finished evidence, laid out for the page, and an examination that has not ended."""
    newest = _newest_examination(session, row.id)
    is_gathering = newest is not None and newest.state in evidence.UNFINISHED
    context: dict[str, Any] = {
        "newest_evidence": newest,
        "gathering": newest if is_gathering else None,
        "reference_sets": datasets.unshredded_of(session, row.model_id, Purpose.REFERENCE),
    }
    finished = evidence.newest_found(session, row.id)
    if finished is None:
        return context
    found = finished.found
    assert found is not None
    deposited = deposits.class_indices(session, row)
    table = figures.rows(found)
    return {
        **context,
        "evidence": finished,
        "evidence_digest": digest(found),
        "networks": figures.networks(found),
        "rows": table,
        "explanations": figures.explanations(table),
        "guide": figures.guide(found),
        "evidence_warnings": figures.warnings(found),
        "is_still_known": figures.still_known(found) is not None,
        "rules": figures.RULES,
        "advice": figures.ADVICE,
        "limits": LIMITS,
        "pictures": plots.pictures(found, deposited),
        "relearning": plots.relearning(found),
        "attacked": [name for name in figures.NETWORKS if name in attack_figures.networks(found)],
        "claims": claims.claims(found),
        "bars": plots.bars,
    }


def _newest_examination(session: Session, deposit_id: str) -> evidence.EvidenceRow | None:
    rows, _ = evidence.list_of_deposit(session, deposit_id, PageRequest(limit=1))
    return rows[0] if rows else None


def _progress(row: DepositRow) -> dict[str, Any]:
    return {"deposit": row, "is_unfinished": row.state in UNFINISHED, "curve": json.dumps(row.curve or {})}


def _all(session: Session, rows: Sequence[DepositRow], by_withdrawal: dict[str, list[str]]) -> list[DepositRow]:
    """These deposits and all others that the withdrawals hold."""
    others = {deposit_id for ids in by_withdrawal.values() for deposit_id in ids} - {row.id for row in rows}
    return [*rows, *deposits.of_ids(session, sorted(others)).values()]


def _described(session: Session, row: ApprovalRow) -> str:
    """One line that says what a request asks for."""
    wish = row.wish
    if row.act == Act.POLICY:
        person = "with" if wish["needs_second_person"] else "without"
        bounds = "/".join(f"{wish[name]:g}" for name in policies.BOUNDS if name in wish)
        change = f"change the policy: {person} a second person; {wish['original']} earlier networks"
        change += f"; bounds of a loss {bounds} points" if bounds else ""
        change += f"; hardening: {wish['hardening']}" if "hardening" in wish else ""
        scrub = "deposit" if wish["original"] == "destroy" else wish.get("scrub")
        return change + (f"; older modules forget a class at its {scrub}" if scrub else "")
    if row.act == Act.DEPOSIT:
        usual = DepositConfigIn() if wish.get("kind") != Kind.SAMPLES else DepositConfigIn.of_samples()
        what = "single images of " if wish.get("kind") == Kind.SAMPLES else ""
        beside = " with preserved images" if wish.get("preserved_set_id") else ""
        groups_of_wish = wish.get("groups") or [wish["classes"]]
        apart = f"by {len(groups_of_wish)} deposits: " if len(groups_of_wish) > 1 else ""
        apart += "; ".join(", ".join(group) for group in groups_of_wish)
        return f"deposit {what}{apart}{beside}{_unusual_settings(wish['config'], usual)}"
    if row.act == Act.REBASE:
        images = "images uploaded for it" if wish["dataset_id"] else "the deposit sets that were kept"
        settings = _unusual_settings(wish["config"], DepositConfigIn())
        return f"make the target and all outstanding modules anew from {images}, and destroy the old modules{settings}"
    if row.act == Act.BASE:
        return f"make the hardened network the base of {wish['model']}, and destroy everything older"
    if row.act == Act.REMOVE:
        return f"remove the model {wish['model']} with all its networks, modules and data sets"
    ids = wish["deposits"] if row.act == Act.WITHDRAW else [wish["deposit"]]
    names = deposits.names_of(session, deposits.of_ids(session, ids).values())
    label = ", ".join(name for of in names.values() for name in of)
    if row.act != Act.WITHDRAW:
        return f"{row.act} {label}"
    seconds, ends = wish.get("expires_in_seconds"), wish.get("expires_at")
    hours = f"{seconds / 3600:g} hour{'' if seconds == 3600 else 's'}" if seconds else ""
    lasts = f"for {hours} from the approval" if seconds else f"until {ends or 'it is revoked'}"
    audience = "visible to everybody" if wish["visibility"] == "public" else "visible only with its token"
    return f"withdraw {label} for {wish['holder']}, {audience}, {lasts}"


def _unusual_settings(config: dict[str, Any], defaults: DepositConfigIn) -> str:
    """The settings that differ from the defaults, which an approver must see."""
    usual = defaults.model_dump()
    unusual = [f"{name} {value}" for name, value in config.items() if value != usual.get(name)]
    return f" with {', '.join(unusual)}" if unusual else ""
