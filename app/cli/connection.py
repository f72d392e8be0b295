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
    """Yield a client. If the service refuses or does not answer, print one line and exit with code 1."""
    try:
        with Client(url, os.environ.get("LIRF_API_KEY") or _local_key(url, state)) as lirf:
            yield lirf
    except LirfError as error:
        fail(f"{error} ({error.type})")
    except AwaitingApproval as awaiting:  # nothing is done yet, and scripts must notice
        err.print(Text.assemble(("lirf: ", "bold yellow"), str(awaiting)), soft_wrap=True)
        err.print(f"      lirf approvals approve {awaiting.approval['id']}", soft_wrap=True)
        raise typer.Exit(1) from None
    except httpx.TransportError as error:
        fail(f"No answer from {url} ({error}). Start the service with `lirf up`, or give its address with --url.")


def _local_key(url: str, state: Path) -> str | None:
    """Return the administrator key of a service on this machine. It must not be sent to another machine."""
    file = state / "admin.key"
    is_local = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")
    return file.read_text().strip() if is_local and os.access(file, os.R_OK) else None
