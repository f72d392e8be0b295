"""What the client raises if the service refuses or waits. Importing this needs no HTTP library."""

from typing import Any

from lirf_client.types import Approval


class LirfError(Exception):
    """The service refused a request (RFC 9457).

    `type` never changes, `detail` says what to do, `members` holds the whole problem.
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.type: str = problem.get("type", "about:blank")
        self.title: str = problem.get("title", "")
        self.detail: str = problem.get("detail", "")
        self.members = problem
        super().__init__(self.detail or self.title or f"HTTP {status}")


class NotSendable(ValueError):
    """The address, the key, a token, a name or an id cannot be right. The message does not show the secret."""


class AwaitingApproval(Exception):
    """The model requires a second person. Nothing happens until somebody with another key approves the request."""

    def __init__(self, approval: Approval) -> None:
        self.approval = approval
        super().__init__(
            f"Model '{approval['model']}' requires a second person. Somebody with another key must approve "
            f"'{approval['id']}' by {approval['expires_at'][:16].replace('T', ' ')} UTC."
        )
