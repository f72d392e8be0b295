"""The base of the errors of every domain: types that are raised where the rule is, and say what to do."""

from typing import Any, ClassVar


class Problem(Exception):
    """What was wrong, where, and what to do. `slug` is the stable end of the problem's type."""

    status: ClassVar[int] = 400
    slug: ClassVar[str] = "bad-request"
    title: ClassVar[str] = "The request cannot be carried out"

    def __init__(self, detail: str, *, retry_after: int | None = None, **members: Any) -> None:
        """retry_after: seconds until it is worth to try again. members: further ones of the answer."""
        self.detail, self.retry_after, self.members = detail, retry_after, members
        super().__init__(detail)
