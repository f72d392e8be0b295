"""The base of the errors of every domain: types that are raised where the rule is, and say what to do."""

from datetime import UTC, datetime
from typing import Any, ClassVar


class Problem(Exception):
    """What was wrong, where, and what to do. `slug` is the stable end of the problem's type."""

    status: ClassVar[int] = 400
    slug: ClassVar[str] = "bad-request"
    title: ClassVar[str] = "The request cannot be carried out"

    def __init__(self, detail: str, **members: Any) -> None:
        self.detail, self.members = detail, members
        super().__init__(detail)


class ExpiryPassed(Problem):
    status, slug, title = 422, "expiry-passed", "It would have ended before it began"


def demand_to_come(expires_at: datetime | None) -> None:
    """Raises `ExpiryPassed`."""
    if expires_at and expires_at <= datetime.now(UTC):
        raise ExpiryPassed(f"expires_at is {expires_at:%Y-%m-%d %H:%M:%S} UTC, which has passed; give a later time.")
