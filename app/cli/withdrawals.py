"""`lirf withdraw`, `withdrawals`, `renew`, `token` and `revoke`."""

from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, Reason, State, Url, demand_finite
from app.cli.output import cell, class_names, err, moment, quoted_classes, show, table
from lirf_client import Withdrawal

commands = typer.Typer()

WithdrawalId = Annotated[
    str, typer.Argument(metavar="WITHDRAWAL", help="Id of the withdrawal, from `lirf withdrawals`.")
]
Hours = Annotated[
    float | None,
    typer.Option(callback=demand_finite, help="Hours from now until it ends. Default: it lasts until it is revoked."),
]


@commands.command()
def withdraw(
    deposits: Annotated[list[str], typer.Argument(metavar="DEPOSIT", help="Ids of finished deposits of one model.")],
    holder: Annotated[str, typer.Option(help="Who receives the withdrawal.")],
    reason: Reason,
    hours: Hours = None,
    held: Annotated[
        bool,
        typer.Option("--held", metavar="", help="Only for requests that present its token, from `lirf token`."),
    ] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Make deposited classes answer again until the withdrawal ends.

    Example:
    lirf withdraw DEPOSIT --holder museum --reason "licensed" --hours 24
    """
    with connect(url, state) as lirf:
        withdrawal = lirf.withdraw(
            deposits,
            holder=holder,
            reason=reason,
            visibility="held" if held else "public",
            expires_in_seconds=_seconds(hours),
        )
        condition = f", for requests that present its token (`lirf token {withdrawal['id']}`)" if held else ""
        message = (
            f"Withdrawal [bold]{withdrawal['id']}[/bold]: {withdrawal['model']} can answer "
            f"{quoted_classes(withdrawal)} {_until(withdrawal)}{condition}."
        )
        show(as_json, withdrawal, message)


@commands.command("withdrawals")
def list_withdrawals(
    model: Annotated[str | None, typer.Option(help="Only withdrawals of this model.")] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """List withdrawals, newest first, including ended ones."""
    with connect(url, state) as lirf:
        withdrawals = lirf.withdrawals(model)
    headers = "id", "model", "classes", "holder", "visibility", "state", "until", "reason"
    rows = [
        (
            withdrawal["id"],
            cell(withdrawal["model"]),
            class_names(withdrawal),
            cell(withdrawal["holder"]),
            withdrawal["visibility"],
            withdrawal["state"],
            moment(end) if (end := withdrawal["ended_at"] or withdrawal["expires_at"]) else "revoked",
            cell(withdrawal["reason"]),
        )
        for withdrawal in withdrawals
    ]
    listing = table(headers, rows, ("reason", "visibility", "model", "holder", "until"))
    show(as_json, withdrawals, listing if withdrawals else "There are no withdrawals yet.")


@commands.command()
def renew(
    withdrawal_id: WithdrawalId,
    reason: Reason,
    hours: Hours = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Change when a withdrawal ends, counted from now."""
    with connect(url, state) as lirf:
        withdrawal = lirf.renew(withdrawal_id, reason=reason, expires_in_seconds=_seconds(hours))
        message = f"Renewed: {withdrawal['model']} can answer {quoted_classes(withdrawal)} {_until(withdrawal)}."
        show(as_json, withdrawal, message)


@commands.command()
def token(
    withdrawal_id: WithdrawalId, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False
) -> None:
    """Issue the token of a held withdrawal. It is shown only once.

    A token that was issued before becomes invalid.
    """
    with connect(url, state) as lirf:
        issued = lirf.withdrawal_token(withdrawal_id)
    if as_json:
        show(as_json, {"withdrawal": withdrawal_id, "token": issued}, "")
    else:
        err.print("Send this token in the header `Withdrawal-Token`. It is not shown again.")
        typer.echo(issued)


@commands.command()
def revoke(
    withdrawal_id: WithdrawalId, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False
) -> None:
    """End a withdrawal at once."""
    with connect(url, state) as lirf:
        withdrawal = lirf.revoke(withdrawal_id)
        classes = quoted_classes(withdrawal)
        message = f"Revoked: {withdrawal['model']} can no longer answer {classes} through this withdrawal."
        show(as_json, withdrawal, message)


def _seconds(hours: float | None) -> float | None:
    return None if hours is None else hours * 3600


def _until(withdrawal: Withdrawal) -> str:
    return f"until {moment(withdrawal['expires_at'])} UTC" if withdrawal["expires_at"] else "until it is revoked"
