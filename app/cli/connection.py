"""The client with which a command talks to the service."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import typer
from rich.text import Text

from app.cli.output import err, fail
from lirf_client import AwaitingApproval, Client, LirfError


@contextmanager
def connect(url: str, state: Path) -> Iterator[Client]:
    """A client; refusals and a missing service become one readable line and exit code 1."""
    file = state / "admin.key"
    is_here = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")  # this machine's key is not for others
    found = file.read_text().strip() if is_here and os.access(file, os.R_OK) else None
    key = os.environ.get("LIRF_API_KEY") or found
    try:
        with Client(url, key) as lirf:
            yield lirf
    except LirfError as error:
        fail(f"{error} ({error.type})")
    except AwaitingApproval as awaiting:  # nothing is done yet, which scripts must see
        err.print(Text.assemble(("lirf: ", "bold yellow"), str(awaiting)), soft_wrap=True)
        err.print(f"      lirf approvals approve {awaiting.approval['id']}", soft_wrap=True)
        raise typer.Exit(1) from None
    except httpx.TransportError as error:
        fail(f"no answer from {url} ({error}); start the service with `lirf up`, or give --url.")
