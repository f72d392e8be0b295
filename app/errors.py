"""The base of the errors of every domain: types that are raised where the rule is, and say what to do."""

from typing import Any, ClassVar


class Problem(Exception):
    """What was wrong, where, and what to do. `slug` is the stable end of the problem's type."""

    status: ClassVar[int] = 400
    slug: ClassVar[str] = "bad-request"
    title: ClassVar[str] = "The request cannot be carried out"

    def __init__(self, detail: str, **members: Any) -> None:
        self.detail, self.members = detail, members
        super().__init__(detail)
