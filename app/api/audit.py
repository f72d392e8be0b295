from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from app.access.service import demand_unbound
from app.api.audit_export import export_response
from app.api.bodies import LimitedRoute
from app.api.dependencies import Auditor, DatabaseDep, InTurn, ReadingDep
from app.audit import anchoring, service
from app.audit.chain import Head
from app.audit.schemas import (
    Anchors,
    AuditEvent,
    AuditExport,
    AuditFault,
    AuditHead,
    AuditRequest,
    Verification,
    VerificationRequest,
)
from app.base.database import Database
from app.base.paging import Page

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=LimitedRoute)


@router.get("/events")
def list_events(actor: Auditor, session: ReadingDep, query: Annotated[AuditRequest, Query()]) -> Page[AuditEvent]:
    """List audit events, newest first. Filter by model, action, subject, actor or time."""
    rows, cursor = service.list_events(session, query, **query.filters())
    return Page(items=[AuditEvent.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/events/export", response_class=StreamingResponse)
def export_events(actor: Auditor, database: DatabaseDep, query: Annotated[AuditExport, Query()]) -> StreamingResponse:
    """Download all events that match the filters, oldest first, as JSON lines or CSV."""
    return export_response(database, actor, query)


@router.get("/head")
def get_head(actor: Auditor, database: DatabaseDep, query: Annotated[VerificationRequest, Query()]) -> AuditHead:
    """The newest event's number and digest. Store them outside the service, as an anchor for `verification`.

    With the last anchor, this answers 409 if the newest event does not continue that anchor's chain.
    """
    demand_unbound(actor)
    if anchor := query.anchor():
        return AuditHead.model_validate(service.continued(database, anchor))
    with database.reading() as session:
        return AuditHead.model_validate(service.head(session))


@router.get("/verification", dependencies=[InTurn])
def verify(actor: Auditor, database: DatabaseDep, query: Annotated[VerificationRequest, Query()]) -> Verification:
    """Check the whole chain of events. With an anchor, this also detects a truncated or rewritten end."""
    demand_unbound(actor)
    anchor = query.anchor()
    return _verification(database, [anchor] if anchor else [])


@router.post("/verification", dependencies=[InTurn])
def verify_with_anchors(actor: Auditor, database: DatabaseDep, body: Anchors) -> Verification:
    """Check the whole chain of events against several anchors, such as all of an anchor file."""
    demand_unbound(actor)
    return _verification(database, [Head(anchor.number, anchor.digest) for anchor in body.anchors])


def _verification(database: Database, anchors: list[Head]) -> Verification:
    head, faults = service.verify(database, anchors)
    with database.reading() as session:
        alarm = anchoring.alarm(session)
    return Verification(
        head=AuditHead.model_validate(head),
        is_intact=not faults,
        faults=[AuditFault.model_validate(fault) for fault in faults],
        alarm=alarm,
    )
