"""Logs: one line for each event, as JSON for machines and as text in a terminal."""

import logging
import sys
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter

from app.base.printable import printable
from app.base.request_id import request_id
from app.base.settings import Settings

EXTRA = "method", "route", "path", "status", "milliseconds", "actor"  # fields that the request log adds to its text


def configure(settings: Settings) -> None:
    """Make every logger of this process, including those of libraries, write to stderr in this form."""
    is_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    enrichment: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow=EXTRA),
        structlog.processors.TimeStamper(fmt="iso", key="at"),
        _with_request_id,
        structlog.processors.format_exc_info,  # only the trace: local variables hold keys and images
        _printable,
    ]
    renderer = structlog.dev.ConsoleRenderer() if is_text else structlog.processors.JSONRenderer(ensure_ascii=False)
    handler = logging.StreamHandler()
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=enrichment, processors=[ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    root = logging.getLogger()
    others = [old for old in root.handlers if not isinstance(old.formatter, ProcessorFormatter)]
    root.handlers = [*others, handler]
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error"):  # uvicorn gives these their own handlers
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # the request log says more
    for name in ("httpx", "httpcore", "botocore", "s3fs", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _printable(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Paths and names may hold characters that forge a line or command a terminal. A trace has line ends of its own."""
    return {
        key: printable(value, keep="\n" if key == "exception" else "") if isinstance(value, str) else value
        for key, value in event.items()
    }


def _with_request_id(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    current = request_id.get()
    return event if current is None else {**event, "request_id": current}
