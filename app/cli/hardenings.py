"""`lirf harden`: whether the target is hardened, harden it again, and stop that."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, ModelName, Reason, State, Url, Yes
from app.cli.output import backups_until, cell, err, fail, moment, not_erased, plain, say, show, table, typed_name
from lirf_client import Hardening

if TYPE_CHECKING:
    from lirf_client import Client

commands = typer.Typer()


@commands.command("harden")
def harden(
    model: ModelName,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Id of a data set with images of deposited classes. Default: the deposit set, if it was kept."
        ),
    ] = None,
    keep_dataset: Annotated[
        bool, typer.Option("--keep-dataset", help="Do not shred the images when the hardening ends.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images and their proxies.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Other settings as JSON, such as '{\"noise_upper\": 1.0}'.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it has ended. A queued or running one is followed.")] = True,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Harden the target in service, or follow the hardening that a deposit began.

    Anyone who has its weights should find less of what was forgotten. `lirf
    evidence` measures what they find, beside a network that never knew it. The
    hardened network answers while nothing is withdrawn, if the policy says so.

    Example: lirf harden birds
    """
    try:
        settings = {**(json.loads(config) if config else {}), **({"epochs": epochs} if epochs else {})}
    except ValueError:
        raise typer.BadParameter("--config must be JSON, such as '{\"noise_upper\": 1.0}'.") from None
    with connect(url, state) as lirf:
        current = lirf.model(model)["hardening"]
        if current["id"] and current["state"] in ("queued", "running") and dataset is None:
            hardening_id = current["id"]
        else:
            requested = lirf.request_hardening(model, dataset_id=dataset, keep_dataset=keep_dataset, config=settings)
            hardening_id = requested["id"]
        hardening = _ended(lirf, hardening_id) if wait else lirf.hardening(hardening_id)
        why_not = lirf.model(model)["hardening"]["why_not"]
    if hardening["state"] in ("failed", "cancelled"):
        fail(f"Hardening {hardening['id']} {hardening['state']}: {hardening['failure'] or 'request it again.'}")
    show(as_json, hardening, _sentence(hardening, why_not))


@commands.command("hardenings")
def list_hardenings(
    model: ModelName, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False
) -> None:
    """List a model's hardenings, and say what it answers with."""
    with connect(url, state) as lirf:
        hardenings, current = lirf.hardenings(model), lirf.model(model)["hardening"]
    rows = [
        (
            cell(one["id"]),
            str(one["revision"]),
            cell(one["state"]),
            "yes" if one["is_served"] else "",
            moment(one["finished_at"] or ""),
            _lost(one),
        )
        for one in hardenings
    ]
    listing = table(("hardening", "revision", "state", "served", "finished", "preserved lose"), rows, ("finished",))
    show(as_json, hardenings, listing if hardenings else "There are no hardenings of this model.")
    if not as_json:
        say(f"Served: {'the hardened network' if current['is_served'] else plain(current['why_not'] or '')}")


@commands.command("cancel-hardening")
def cancel_hardening(
    hardening: Annotated[str, typer.Argument(metavar="HARDENING", help="Id of the hardening.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Stop a hardening that has not ended. The working target stays in service."""
    with connect(url, state) as lirf:
        cancelled = lirf.cancel_hardening(hardening)
    show(as_json, cancelled, f"Hardening {cancelled['id']} is cancelled. The working target stays in service.")


@commands.command("new-base")
def new_base(
    model: ModelName,
    reason: Reason,
    confirmed: Yes = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Make the hardened network the model's base. This cannot be undone.

    Destroys the working target, the sealed upper part and every older network, so
    that nothing is left which could relearn what was purged. All deposits must be
    purged first.

    Example: lirf new-base birds --reason "nothing shall relearn dodo"
    """
    with connect(url, state) as lirf:
        consequence = f"This destroys every network of [bold]{plain(model)}[/bold] but the hardened one, for good."
        based = lirf.make_base(model, confirm=model if confirmed else typed_name(consequence), reason=reason)
    message = f"Revision {based['revision']} of {plain(model)} is its hardened network. Everything older is destroyed. "
    message += backups_until(based["shred_effective_at"]) + not_erased(based["still_in"], based["also_in"])
    show(as_json, based, message)


def _ended(lirf: "Client", hardening_id: str) -> Hardening:
    with err.status("A worker hardens the target.") as status:
        for hardening in lirf.follow_hardening(hardening_id):
            progress = hardening["progress"]
            if progress.get("epochs"):
                status.update(f"Hardening: epoch {progress['epoch']} of {progress['epochs']}")
    return hardening


def _sentence(hardening: Hardening, why_not: str | None) -> str:
    name = plain(hardening["model"])
    if hardening["is_served"]:
        return f"{name} answers with its hardened network (revision {hardening['revision']}). {_lost_of(hardening)}"
    return f"Hardening {hardening['id']} of {name} is {hardening['state']}. {plain(why_not or '')}"


def _lost_of(hardening: Hardening) -> str:
    lost = _lost(hardening)
    return f"Its preserved classes lose {lost} points against the working target." if lost else ""


def _lost(hardening: Hardening) -> str:
    losses = (hardening["losses"] or {}).get("preserved") or []
    return ", ".join(f"{loss['before'] - loss['after']:.1f} ({loss['source']})" for loss in losses)
