from typing import Annotated

from fastapi import APIRouter, Query

from app.audit import service
from app.audit.schemas import AuditEvent, AuditRequest
from app.dependencies import Auditor, ReadingDep
from app.paging import Page

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get("/events")
def list_events(actor: Auditor, session: ReadingDep, query: Annotated[AuditRequest, Query()]) -> Page[AuditEvent]:
    """Audit events, newest first; filter by model, action or subject."""
    rows, cursor = service.list_events(session, query, model=query.model, action=query.action, subject=query.subject)
    return Page(items=[AuditEvent.model_validate(row) for row in rows], next_cursor=cursor)
