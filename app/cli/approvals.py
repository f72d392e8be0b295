"""`lirf approvals`: what waits for a second person."""

from typing import Annotated

import typer
from rich.markup import escape

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, Reason, State, Url
from app.cli.output import cell, moment, show, table

commands = typer.Typer(help="What waits for a second person.", no_args_is_help=True)

ApprovalId = Annotated[str, typer.Argument(metavar="APPROVAL", help="Id, from `lirf approvals list`.")]


@commands.command("list")
def list_approvals(
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    decided: Annotated[bool, typer.Option("--all", help="Also those that are decided on, or are too old.")] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """List what was asked for and needs somebody with another key."""
    with connect(url, state) as lirf:
        found = lirf.approvals(model=model, waiting=not decided)
        headers = "id", "model", "act", "asked by", "reason", "state", "until", "decided by"
        rows = [
            (
                *map(cell, (one["id"], one["model"], one["act"], one["requested_by"], one["reason"], one["state"])),
                moment(one["expires_at"])[:16],
                cell(one["decided_by"]),
            )
            for one in found
        ]
        listed = table(headers, rows, ("decided by", "until", "asked by", "reason"))
        show(as_json, found, listed if found else "Nothing waits for a second person.")


@commands.command("approve")
def approve(
    approval_id: ApprovalId, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False
) -> None:
    """Carry out what somebody else asked for."""
    with connect(url, state) as lirf:
        found = lirf.approve(approval_id)
        done = f"Approved: {found['act']} of {found['model']}, asked for by {escape(found['requested_by'])}"
        show(as_json, found, f"{done} ({found['result_id']}).")


@commands.command("refuse")
def refuse(
    approval_id: ApprovalId,
    reason: Reason,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """End a request without carrying it out; also one's own."""
    with connect(url, state) as lirf:
        found = lirf.refuse(approval_id, reason=reason)
        show(as_json, found, f"Refused: {found['act']} of {found['model']} is not carried out.")
