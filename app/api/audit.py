from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from app.api.audit_export import export_response
from app.api.dependencies import Auditor, DatabaseDep, ReadingDep
from app.audit import service
from app.audit.chain import Head
from app.audit.schemas import (
    AuditEvent,
    AuditExport,
    AuditFault,
    AuditHead,
    AuditRequest,
    Verification,
    VerificationRequest,
)
from app.base.paging import Page

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get("/events")
def list_events(actor: Auditor, session: ReadingDep, query: Annotated[AuditRequest, Query()]) -> Page[AuditEvent]:
    """List audit events, newest first. Filter by model, action, subject, actor or time."""
    rows, cursor = service.list_events(session, query, **query.filters())
    return Page(items=[AuditEvent.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/events/export", response_class=StreamingResponse)
def export_events(actor: Auditor, database: DatabaseDep, query: Annotated[AuditExport, Query()]) -> StreamingResponse:
    """Download all events that match the filters, oldest first, as JSON lines or CSV."""
    return export_response(database, query)


@router.get("/head")
def get_head(actor: Auditor, session: ReadingDep) -> AuditHead:
    """The newest event's number and digest. Store them outside the service, as an anchor for `verification`."""
    return AuditHead.model_validate(service.head(session))


@router.get("/verification")
def verify(actor: Auditor, session: ReadingDep, query: Annotated[VerificationRequest, Query()]) -> Verification:
    """Check the whole chain of events. With an anchor, this also detects a truncated or rewritten end."""
    anchor = Head(query.number, query.digest) if query.number is not None and query.digest is not None else None
    head, faults = service.verify(session, anchor)
    return Verification(
        head=AuditHead.model_validate(head),
        is_intact=not faults,
        faults=[AuditFault.model_validate(fault) for fault in faults],
    )
