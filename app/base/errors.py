"""The base class of all domain errors. Services raise them; each one says what to do next."""

from typing import Any, ClassVar


class Problem(Exception):
    """What was wrong, where, and what to do about it. `slug` is the stable last part of the problem's `type`."""

    status: ClassVar[int] = 400
    slug: ClassVar[str] = "bad-request"
    title: ClassVar[str] = "The request cannot be carried out"

    def __init__(self, detail: str, *, retry_after: int | None = None, **members: Any) -> None:
        """retry_after: seconds to wait before another attempt. members: more fields for the answer's JSON."""
        self.detail, self.retry_after, self.members = detail, retry_after, members
        super().__init__(detail)
