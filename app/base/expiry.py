"""Expiry times, of withdrawals and API keys."""

from datetime import datetime

from app.base.database import now
from app.base.errors import Problem


class ExpiryPassed(Problem):
    """`expires_at` lies in the past. Give a later time."""

    status, slug, title = 422, "expiry-passed", "The expiry time is in the past"


def demand_future(expires_at: datetime | None) -> None:
    """Raise `ExpiryPassed` if the time has passed."""
    if expires_at and expires_at <= now():
        raise ExpiryPassed(f"The expiry time {expires_at:%Y-%m-%d %H:%M:%S} UTC has passed. Give a later time.")
