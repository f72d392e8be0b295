"""The id that one request's answer, log lines and audit events share."""

import re
from contextvars import ContextVar

from app.base.database import new_id

HEADER = "X-Request-ID"
_ALLOWED = re.compile(r"[A-Za-z0-9._:/+=@-]{1,64}")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def begin(proposed: str | None) -> str:
    """Set the request id of this context: the proposed id if its form is allowed, otherwise a new one."""
    chosen = proposed if proposed and _ALLOWED.fullmatch(proposed) else new_id()
    request_id.set(chosen)
    return chosen
