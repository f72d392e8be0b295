"""The id of the key or identity that acts in this context, for the audit. Names are only labels."""

from contextvars import ContextVar

caller_id: ContextVar[str | None] = ContextVar("caller_id", default=None)
