"""Ends of what is made for a time: withdrawals, API keys."""

from datetime import datetime

from app.base.database import now
from app.base.errors import Problem


class ExpiryPassed(Problem):
    status, slug, title = 422, "expiry-passed", "It would have ended before it began"


def demand_to_come(expires_at: datetime | None) -> None:
    """Raises `ExpiryPassed`."""
    if expires_at and expires_at <= now():
        raise ExpiryPassed(f"expires_at is {expires_at:%Y-%m-%d %H:%M:%S} UTC, which has passed; give a later time.")
