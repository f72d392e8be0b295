"""`lirf approvals`: requests that need a second person."""

from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, Reason, State, Url
from app.cli.output import cell, moment, plain, show, table

commands = typer.Typer(help="Approve or refuse requests that need a second person.", no_args_is_help=True)

ApprovalId = Annotated[str, typer.Argument(metavar="APPROVAL", help="Id of the request, from `lirf approvals list`.")]


@commands.command("list")
def list_approvals(
    model: Annotated[str | None, typer.Option(help="Only requests for this model.")] = None,
    with_decided: Annotated[
        bool, typer.Option("--all", metavar="", help="Include requests that were decided or have expired.")
    ] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """List requests that wait for a second person.

    Another person who has the role for the act can approve it. A key counts as
    the person whose key created it.
    """
    with connect(url, state) as lirf:
        approvals = lirf.approvals(model=model, waiting=not with_decided)
    headers = "id", "model", "act", "requested by", "with key", "reason", "state", "until", "decided by"
    keys = "id", "model", "act", "requested_by", "requested_key_id", "reason", "state"
    rows = [
        (
            *(cell(approval[key]) for key in keys),  # type: ignore[literal-required]
            moment(approval["expires_at"])[:16],
            cell(approval["decided_by"]),
        )
        for approval in approvals
    ]
    listing = table(headers, rows, ("decided by", "until", "requested by", "reason", "with key"))
    show(as_json, approvals, listing if approvals else "No request waits for a second person.")


@commands.command("approve")
def approve(
    approval_id: ApprovalId, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False
) -> None:
    """Approve a request of somebody else, and carry it out."""
    with connect(url, state) as lirf:
        approval = lirf.approve(approval_id)
        act = f"{approval['act']} of {approval['model']}, requested by {plain(approval['requested_by'])}"
        show(as_json, approval, f"Approved and carried out: {act} ({approval['result_id']}).")


@commands.command("refuse")
def refuse(
    approval_id: ApprovalId,
    reason: Reason,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Refuse a request, which may be your own. Nothing is changed."""
    with connect(url, state) as lirf:
        approval = lirf.refuse(approval_id, reason=reason)
        show(as_json, approval, f"Refused: {approval['act']} of {approval['model']} will not be carried out.")
