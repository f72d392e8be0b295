import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

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
from app.database import Database
from app.dependencies import Auditor, DatabaseDep, ReadingDep
from app.paging import Page

router = APIRouter(prefix="/v1/audit", tags=["audit"])
MEDIA_TYPES = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}


@router.get("/events")
def list_events(actor: Auditor, session: ReadingDep, query: Annotated[AuditRequest, Query()]) -> Page[AuditEvent]:
    """Audit events, newest first; filter by model, action, subject, actor or time."""
    rows, cursor = service.list_events(session, query, **query.given())
    return Page(items=[AuditEvent.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/events/export", response_class=StreamingResponse)
def export_events(actor: Auditor, database: DatabaseDep, query: Annotated[AuditExport, Query()]) -> StreamingResponse:
    """All events that the filters leave, oldest first, as JSON lines or CSV."""
    headers = {"Content-Disposition": f'attachment; filename="audit.{query.format}"'}
    return StreamingResponse(_exported(database, query), media_type=MEDIA_TYPES[query.format], headers=headers)


def _exported(database: Database, query: AuditExport) -> Iterator[str]:
    names = list(AuditEvent.model_fields)
    with database.reading() as session:
        if query.format == "csv":
            yield _csv_line(names)
        for row in service.export(session, **query.given()):
            event = AuditEvent.model_validate(row)
            if query.format == "jsonl":
                yield event.model_dump_json() + "\n"
            else:
                values = event.model_dump(mode="json") | {"details": json.dumps(event.details, ensure_ascii=False)}
                yield _csv_line([values[name] for name in names])


def _csv_line(values: Sequence[object]) -> str:
    """Cells that a spreadsheet would take for a formula get an apostrophe before them (OWASP, CSV injection)."""
    line = io.StringIO()
    cells = ["" if value is None else str(value) for value in values]
    csv.writer(line).writerow(
        [f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell for cell in cells]
    )
    return line.getvalue()


@router.get("/head")
def get_head(actor: Auditor, session: ReadingDep) -> AuditHead:
    """The newest event's number and digest: keep them outside the service, as an anchor for `verification`."""
    return AuditHead.model_validate(service.head(session))


@router.get("/verification")
def verify(actor: Auditor, session: ReadingDep, query: Annotated[VerificationRequest, Query()]) -> Verification:
    """Walks the whole chain of events. With an anchor, a cut or rewritten tail is found, too."""
    anchor = Head(query.number, query.digest) if query.number is not None and query.digest is not None else None
    head, faults = service.verify(session, anchor)
    return Verification(
        head=AuditHead.model_validate(head),
        is_intact=not faults,
        faults=[AuditFault.model_validate(fault) for fault in faults],
    )
