"""Withdrawals: made, listed, renewed and revoked."""

from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, Reason, State, Url
from app.cli.output import cell, err, moment, names, quoted, show, table
from lirf_client import Withdrawal

commands = typer.Typer()
Hours = Annotated[float | None, typer.Option(help="When it ends by itself; without it, when it is revoked.")]


@commands.command()
def withdraw(
    deposits: Annotated[list[str], typer.Argument(metavar="DEPOSIT...", help="Ids of finished deposits of one model.")],
    holder: Annotated[str, typer.Option(help="For whom.")],
    reason: Reason,
    hours: Hours = None,
    held: Annotated[
        bool, typer.Option("--held", help="For requests alone that present its token (`lirf token`).")
    ] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Make deposited classes answer again, for a time."""
    with connect(url, state) as lirf:
        found = lirf.withdraw(
            deposits,
            holder=holder,
            reason=reason,
            visibility="held" if held else "public",
            expires_in_seconds=_seconds(hours),
        )
        whom = f" to who presents its token (`lirf token {found['id']}`)" if held else ""
        text = (
            f"Withdrawal [bold]{found['id']}[/bold]: {quoted(found)} of {found['model']} answer{whom} {_until(found)}."
        )
        show(as_json, found, text)


@commands.command("withdrawals")
def list_withdrawals(
    model: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """List withdrawals, newest first, ended ones too."""
    with connect(url, state) as lirf:
        found = lirf.withdrawals(model)
        headers = "id", "model", "classes", "holder", "visibility", "state", "until", "reason"
        rows = [
            (
                one["id"],
                cell(one["model"]),
                names(one),
                cell(one["holder"]),
                one["visibility"],
                one["state"],
                moment(until) if (until := one["ended_at"] or one["expires_at"]) else "revoked",
                cell(one["reason"]),
            )
            for one in found
        ]
        listed = table(headers, rows, ("reason", "visibility", "model", "holder", "until"))
        show(as_json, found, listed if found else "Nothing was withdrawn yet.")


def _seconds(hours: float | None) -> float | None:
    return None if hours is None else hours * 3600


def _until(withdrawal: Withdrawal) -> str:
    return f"until {moment(withdrawal['expires_at'])} UTC" if withdrawal["expires_at"] else "until it is revoked"


@commands.command()
def renew(
    withdrawal_id: Annotated[str, typer.Argument(metavar="WITHDRAWAL", help="Id of the withdrawal.")],
    reason: Reason,
    hours: Hours = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Let a withdrawal end at another time, counted from now."""
    with connect(url, state) as lirf:
        found = lirf.renew(withdrawal_id, reason=reason, expires_in_seconds=_seconds(hours))
        show(as_json, found, f"Renewed: {quoted(found)} of {found['model']} answer {_until(found)}.")


@commands.command()
def token(
    withdrawal_id: Annotated[str, typer.Argument(metavar="WITHDRAWAL", help="Id of a held withdrawal.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Issue a held withdrawal's token, told this once; one that was issued before ends."""
    with connect(url, state) as lirf:
        issued = lirf.withdrawal_token(withdrawal_id)
        if as_json:
            show(as_json, {"withdrawal": withdrawal_id, "token": issued}, "")
        else:
            err.print("Requests present it as the header `Withdrawal-Token`. It is not told again.")
            typer.echo(issued)


@commands.command()
def revoke(
    withdrawal_id: Annotated[str, typer.Argument(metavar="WITHDRAWAL", help="Id of the withdrawal.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """End a withdrawal at once."""
    with connect(url, state) as lirf:
        found = lirf.revoke(withdrawal_id)
        show(as_json, found, f"Revoked: {quoted(found)} of {found['model']} do not answer any more.")
