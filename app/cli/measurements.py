"""`lirf measure`: how a model answers now, with deposits withdrawn."""

from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, ModelName, State, Url
from app.cli.output import err, fail, moment, percent, plain, say, show, table
from lirf_client import View

commands = typer.Typer()


@commands.command("measure")
def measure(
    model: ModelName,
    deposits: Annotated[
        list[str] | None,
        typer.Option(
            "--deposit",
            metavar="DEPOSIT",
            help="Withdraw this deposit for the measurement. Repeat it for several, which are then withdrawn "
            "together. Default: each outstanding deposit alone, and all together.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Measure a model as it is now, on its newest evaluation set.

    Nothing is switched on: the deposits are withdrawn for the measurement only.

    Example: lirf measure birds --deposit DEPOSIT
    """
    with connect(url, state) as lirf:
        requested = lirf.request_measurement(model, deposits=deposits)
        with err.status("A worker measures the model."):
            *_, measurement = lirf.follow_measurement(requested["id"])
    if measurement["views"] is None:
        reason = measurement["failure"] or "request it again."
        fail(f"Measurement {measurement['id']} {measurement['state']}: {reason}")
    listing = table(
        ("withdrawn", "preserved", "lost", "of the deposits", "lost by them", "average"),
        [_row(view) for view in measurement["views"]],
        ("average",),
    )
    at = moment(measurement["finished_at"] or "")
    listing.title = f"{plain(model)}, revision {measurement['revision']}, {at} UTC"
    show(as_json, measurement, listing)
    if not as_json:
        say("Percent of held-out images answered correctly. Lost: points since the original network.")
        for warning in measurement["warnings"]:
            say(f"[bold yellow]{plain(warning)}[/bold yellow]")


def _row(view: View) -> tuple[str, ...]:
    deposits = view["deposits"]
    return (
        (deposits[0] if len(deposits) == 1 else f"{len(deposits)} together") if deposits else "nothing",
        percent(view["preserved_accuracy"]),
        points(view["preserved_loss"]),
        percent(view["withdrawn_accuracy"]),
        points(view["withdrawn_loss"]),
        percent(view["average_accuracy"]),
    )


def points(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
