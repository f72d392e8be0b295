"""The id that ties the answer, the log lines and the audit events of one request together."""

import re
from contextvars import ContextVar

from app.base.database import new_id

HEADER = "X-Request-ID"
_FIT = re.compile(r"[A-Za-z0-9._:/+=@-]{1,64}")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def begin(given: str | None) -> str:
    """From here on, what this context does belongs to a request: with the id it was given, where that is a fit one."""
    found = given if given and _FIT.fullmatch(given) else new_id()
    request_id.set(found)
    return found
