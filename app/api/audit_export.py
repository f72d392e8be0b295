"""The audit as a file, for the API and the console."""

import csv
import io
import json
from collections.abc import Iterator, Sequence

from fastapi.responses import StreamingResponse

from app.access.service import Actor
from app.audit import service
from app.audit.schemas import AuditEvent, AuditExport
from app.base.database import Database

MEDIA_TYPES = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}


def export_response(database: Database, actor: Actor, query: AuditExport) -> StreamingResponse:
    """Stream all events that match the filters, oldest first. The export is an event, too."""
    filters = {name: str(value) for name, value in query.filters().items() if value is not None}
    service.record_read(database, actor.name, "audit.exported", details={"format": query.format, "filters": filters})
    headers = {"Content-Disposition": f'attachment; filename="audit.{query.format}"'}
    return StreamingResponse(_lines(database, query), media_type=MEDIA_TYPES[query.format], headers=headers)


def _lines(database: Database, query: AuditExport) -> Iterator[str]:
    names = list(AuditEvent.model_fields)
    if query.format == "csv":
        yield _csv_line(names)
    for row in service.export(database, **query.filters()):
        event = AuditEvent.model_validate(row)
        if query.format == "jsonl":
            yield event.model_dump_json() + "\n"
        else:
            values = event.model_dump(mode="json") | {"details": json.dumps(event.details, ensure_ascii=False)}
            yield _csv_line([values[name] for name in names])


def _csv_line(values: Sequence[object]) -> str:
    """One line of CSV. Cells that look like a formula get an apostrophe in front (OWASP, CSV injection)."""
    line = io.StringIO()
    cells = ["" if value is None else str(value) for value in values]
    csv.writer(line).writerow(
        [f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell for cell in cells]
    )
    return line.getvalue()
