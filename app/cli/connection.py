"""The client with which a command talks to the service."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer
from rich.text import Text

from app.base.printable import printable
from app.cli import text_files
from app.cli.output import err, fail
from lirf_client.errors import AwaitingApproval, LirfError, NotSendable

if TYPE_CHECKING:
    from lirf_client import Client


@contextmanager
def connect(url: str, state: Path) -> Iterator["Client"]:
    """Yield a client. If the service refuses or does not answer, print one line and exit with code 1."""
    import httpx  # here, because it takes longer to import than all the commands

    from lirf_client import Client

    try:
        client = Client(url, os.environ.get("LIRF_API_KEY") or _local_key(url, state))
    except (ValueError, ImportError) as error:  # of the address, the key or the environment (proxies, certificates)
        fail(str(error))
    try:
        with client as lirf:
            yield lirf
    except NotSendable as error:
        fail(str(error))
    except LirfError as error:
        fail(f"{error} ({error.type})")
    except AwaitingApproval as awaiting:  # nothing is done yet, and scripts must notice
        err.print(Text.assemble(("lirf: ", "bold yellow"), printable(str(awaiting))), soft_wrap=True)
        err.print(f"      lirf approvals approve {awaiting.approval['id']}", soft_wrap=True)
        raise typer.Exit(1) from None
    except httpx.TimeoutException:
        fail(f"{url} did not answer in time. Try again; if that does not help, look at the service's log.")
    except httpx.RequestError as error:
        fail(f"No answer from {url} ({error}). Start the service with `lirf up`, or give its address with --url.")


def _local_key(url: str, state: Path) -> str | None:
    """Return the administrator key of a service on this machine. It must not be sent to another machine."""
    file = state / "admin.key"
    try:
        is_local = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    except ValueError:  # not an address, which the client says better
        return None
    return text_files.read(file).strip() if is_local and os.access(file, os.R_OK) else None
