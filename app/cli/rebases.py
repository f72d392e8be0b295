"""`lirf rebase`: make the target and all outstanding modules anew, list rebases, and stop one."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, ModelName, Reason, State, Url
from app.cli.output import cell, err, fail, moment, out, percent, plain, quoted_classes, show, table
from app.cli.uploads import packed, upload
from lirf_client import Deposit, LirfError, Rebase

if TYPE_CHECKING:
    from lirf_client import Client

commands = typer.Typer()


@commands.command("rebase")
def rebase_model(
    model: ModelName,
    reason: Reason,
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Folder or zip with images of the classes of all outstanding deposits. Default: the deposit sets, if "
            "all were kept.",
        ),
    ] = None,
    keep_dataset: Annotated[
        bool, typer.Option("--keep-dataset", metavar="", help="Do not shred the images when the rebase ends.")
    ] = False,
    config: Annotated[
        str | None, typer.Option(help="Settings of a deposit as JSON, such as '{\"epochs\": 5}'.")
    ] = None,
    wait: Annotated[bool, typer.Option(metavar="", help="Wait until it has ended. Ctrl-C leaves it running.")] = True,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Make the target and the modules of all outstanding deposits anew.

    Each of many deposits costs a little accuracy. A rebase goes back to the
    original network and makes all of them at once. Every deposit keeps its id,
    its withdrawals and its restoration. The original must still exist, so it is
    for models without a purge.

    Example: lirf rebase birds --images FOLDER --reason "ten deposits so far"
    """
    try:
        settings = json.loads(config) if config else {}
    except ValueError:
        raise typer.BadParameter("--config must be JSON, such as '{\"epochs\": 5}'.") from None
    with ExitStack() as stack:
        archive = stack.enter_context(packed(images)) if images else None
        lirf = stack.enter_context(connect(url, state))
        rebase = _requested(lirf, model, archive, reason=reason, keep_dataset=keep_dataset, config=settings)
        if not wait:
            show(as_json, rebase, f"Rebase [bold]{rebase['id']}[/bold] is queued.")
            return
        rebase = _ended(lirf, rebase["id"])
        if rebase["state"] != "finished":
            if as_json:
                out.print_json(json.dumps(rebase))
            fail(f"Rebase {rebase['id']} {rebase['state']}: {rebase['failure'] or 'the model is unchanged.'}")
        show(as_json, rebase, _result(rebase, [lirf.deposit(one) for one in rebase["deposits"]]))


@commands.command("rebases")
def list_rebases(model: ModelName, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List a model's rebases, newest first."""
    with connect(url, state) as lirf:
        rebases = lirf.rebases(model)
    rows = [
        (
            cell(one["id"]),
            cell(one["state"]),
            str(one["revision"] or ""),
            str(len(one["deposits"]) or ""),
            moment(one["created_at"]),
            cell(one["created_by"]),
            cell(one["reason"]),
        )
        for one in rebases
    ]
    headers = "rebase", "state", "revision", "deposits", "requested at", "by", "reason"
    listing = table(headers, rows, ("by", "requested at", "reason"))
    show(as_json, rebases, listing if rebases else f"{plain(model)} was never rebased.")


@commands.command("cancel-rebase")
def cancel_rebase(
    rebase: Annotated[str, typer.Argument(metavar="REBASE", help="Id of the rebase.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Stop a rebase that has not ended. The model stays as it was."""
    with connect(url, state) as lirf:
        cancelled = lirf.cancel_rebase(rebase)
    show(as_json, cancelled, f"Rebase {cancelled['id']} is cancelled. The model is unchanged.")


def _requested(lirf: "Client", model: str, archive: Any, **options: Any) -> Rebase:
    """archive: of images to upload for it, if there are any. They do not stay if the request is refused."""
    if archive is None:
        return lirf.request_rebase(model, **options)
    dataset = upload(lirf, model, archive, "deposit")
    try:
        return lirf.request_rebase(model, dataset_id=dataset["id"], **options)
    except LirfError:
        lirf.discard_dataset(model, dataset["id"])
        raise


def _ended(lirf: "Client", rebase_id: str) -> Rebase:
    with err.status("A worker rebases the model.") as status:
        for rebase in lirf.follow_rebase(rebase_id):
            progress = rebase["progress"]
            if progress.get("epochs"):
                status.update(f"Rebase, {progress['phase']}: epoch {progress['epoch']} of {progress['epochs']}")
    return rebase


def _result(rebase: Rebase, deposits: list[Deposit]) -> str:
    text = f"{plain(rebase['model'])} is rebased (revision {rebase['revision']}):"
    for deposit in deposits:
        text += f"\n  {deposit['id']}  {quoted_classes(deposit)}"
        if metrics := deposit["metrics"]:
            text += f", deposited {percent(metrics['target']['deposited_accuracy'])}"
            text += f" of the target and {percent(metrics['recover']['deposited_accuracy'])} when withdrawn"
    return text
