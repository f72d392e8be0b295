"""`lirf deposit`, `follow`, `cancel`, `deposits`, `restore` and `purge`."""

import csv
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, DepositId, Json, ModelName, Reason, State, Url, demand_finite
from app.cli.output import (
    backups_until,
    cell,
    class_names,
    err,
    fail,
    moment,
    not_erased,
    out,
    percent,
    plain,
    quoted_classes,
    say,
    show,
    table,
)
from app.cli.uploads import packed, upload
from app.evidence.figures import ADVICE, remains
from lirf_client import Dataset, Deposit, LirfError
from lirf_client.types import NetworkAccuracy

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lirf_client import Client

PHASES = {"preparing": "making proxy images", "evaluating": "measuring"}
TRAINING = "Training"  # panel of the help page

commands = typer.Typer()


@commands.command("deposit")
def create_deposit(
    model: ModelName,
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", exists=True, help="Folder or zip that has a folder of images for each class to forget."
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why the classes must be forgotten; recorded in the audit log.")],
    evaluation: Annotated[
        Path | None, typer.Option(exists=True, help="Held-out images of all classes, to measure accuracy.")
    ] = None,
    preserved: Annotated[
        Path | None,
        typer.Option(exists=True, help="10 to 50 images of each class that stays, if you have some: more is kept."),
    ] = None,
    samples: Annotated[
        bool,
        typer.Option(
            "--samples", metavar="", help="Forget only that the model was trained on these images, not their classes."
        ),
    ] = False,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="Classes that get a deposit of their own, separated by commas. Repeat it for each group of classes. "
            "Quote a name with a comma.",
        ),
    ] = None,
    each_class: Annotated[
        bool, typer.Option("--each-class", metavar="", help="Make a deposit of each class, all in one job.")
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the deposit set. Default: 3, or as many as 120 steps need.", rich_help_panel=TRAINING
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images of the deposit set per step. Default: 128.", rich_help_panel=TRAINING)
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            callback=demand_finite, help="Peak of the one-cycle schedule. Default: 0.02.", rich_help_panel=TRAINING
        ),
    ] = None,
    pruning_rate: Annotated[
        float | None,
        typer.Option(
            callback=demand_finite, help="Share of the module's filters to prune. Default: 0.", rich_help_panel=TRAINING
        ),
    ] = None,
    proxies: Annotated[
        int | None,
        typer.Option(
            help="Images to generate in place of preserved ones, at most. Fewer take less time and keep less. "
            "Default: 3000.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    crop_padding: Annotated[
        int, typer.Option(help="Padding for random crops, in pixels.", rich_help_panel=TRAINING)
    ] = 4,
    flip: Annotated[
        bool,
        typer.Option(
            metavar="",
            help="Mirror images at random. Switch it off if a mirrored image shows another class.",
            rich_help_panel=TRAINING,
        ),
    ] = True,
    seed: Annotated[
        int, typer.Option(help="Random seed. It fixes the result on one machine.", rich_help_panel=TRAINING)
    ] = 0,
    keep_dataset: Annotated[
        bool, typer.Option(metavar="", help="Keep the deposit set. Otherwise it is shredded when the deposit ends.")
    ] = False,
    keep_preserved: Annotated[
        bool, typer.Option(metavar="", help="Keep the preserved images. Otherwise they are shredded, too.")
    ] = False,
    is_examined: Annotated[
        bool,
        typer.Option(
            "--evidence/--no-evidence", metavar="", help="Gather evidence afterwards, if there are held-out images."
        ),
    ] = True,
    wait: Annotated[
        bool, typer.Option(metavar="", help="Show progress until the deposit ends. Ctrl-C leaves it running.")
    ] = True,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Forget classes, and keep their knowledge in a deposit module.

    IMAGES must show only the classes to forget. With --samples, they are exactly
    the images to forget: the model still answers their classes, and needs
    held-out images of them. The images of a class such as T-shirt/top are in the
    folder top in the folder T-shirt.

    All classes go into one deposit. Those that are to be switched on again or
    purged by themselves get deposits of their own with --group or --each-class.

    Examples:
    lirf deposit birds FOLDER --evaluation FOLDER --reason "licence ended"
    lirf deposit birds FOLDER --group "auk,emu" --group kiwi --reason "..."
    """
    if group and each_class:
        raise typer.BadParameter("Give --group or --each-class, not both.")
    groups = [_listed_classes(text) for text in group or []]
    choices = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "pruning_rate": pruning_rate,
        "proxies": proxies,
    }
    config: dict[str, Any] = {name: value for name, value in choices.items() if value is not None}
    config |= {"seed": seed, "augmentation": {"crop_padding": crop_padding, "horizontal_flip": flip}}
    with ExitStack() as stack:
        archive = stack.enter_context(packed(images))
        evaluation_archive = stack.enter_context(packed(evaluation)) if evaluation else None
        lirf = stack.enter_context(connect(url, state))
        preserved_archive = stack.enter_context(packed(preserved)) if preserved else None
        if evaluation_archive:
            upload(lirf, model, evaluation_archive, "evaluation")
        beside = upload(lirf, model, preserved_archive, "preserved") if preserved_archive else None
        try:
            dataset = upload(lirf, model, archive, "deposit", warns=not samples)
        except (LirfError, typer.Exit):
            _discard(lirf, model, beside)
            raise
        try:
            deposit = lirf.request_deposit(
                model,
                dataset["id"],
                reason=reason,
                kind="samples" if samples else "classes",
                groups=[[name] for name in dataset["counts"]] if each_class else groups or None,
                preserved_set_id=beside["id"] if beside else None,
                config=config,
                keep_dataset=keep_dataset,
                keep_preserved_set=keep_preserved,
                evidence=is_examined,
            )
        except LirfError:
            _discard(lirf, model, dataset, beside)
            raise
        if not wait:
            show(as_json, deposit, f"Deposit [bold]{deposit['id']}[/bold] is queued.")
            return
        _follow(lirf, deposit["id"], as_json)


@commands.command("follow")
def follow_deposit(
    deposit_id: DepositId, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False
) -> None:
    """Show a deposit's progress until it ends."""
    with connect(url, state) as lirf:
        _follow(lirf, deposit_id, as_json)


@commands.command("cancel")
def cancel_deposit(
    deposit_id: DepositId, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False
) -> None:
    """Cancel a queued or running deposit. The model is unchanged."""
    with connect(url, state) as lirf:
        deposit = lirf.cancel(deposit_id)
        verb = "is being" if deposit["state"] == "running" else "was"
        show(as_json, deposit, f"Deposit {deposit_id} {verb} cancelled.")


@commands.command("deposits")
def list_deposits(
    model: ModelName, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False
) -> None:
    """List a model's deposits, newest first."""
    with connect(url, state) as lirf:
        deposits = lirf.deposits(model)
    headers = "id", "classes", "state", "requested at", "by", "reason"
    rows = [
        (
            deposit["id"],
            ("images of " if deposit["kind"] == "samples" else "") + class_names(deposit),
            deposit["state"],
            moment(deposit["created_at"]),
            cell(deposit["created_by"]),
            cell(deposit["reason"]),
        )
        for deposit in deposits
    ]
    listing = table(headers, rows, ("by", "requested at", "reason"))
    show(as_json, deposits, listing if deposits else f"{plain(model)} has no deposits yet.")


@commands.command("restore")
def restore_deposit(
    deposit_id: DepositId,
    reason: Annotated[str | None, typer.Option(help="Why; recorded in the audit log.")] = None,
    undo: Annotated[
        bool, typer.Option("--undo", metavar="", help="End a restoration: switch the classes off again, at once.")
    ] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Switch a deposit's classes on again, without a withdrawal.

    They stay on until you run the command with --undo.

    Example: lirf restore DEPOSIT --reason "the licence was renewed"
    """
    if undo == (reason is not None):
        raise typer.BadParameter("Give --reason to restore the classes, or --undo to end their restoration.")
    with connect(url, state) as lirf:
        if undo:
            lirf.end_restoration(deposit_id)
            deposit = lirf.deposit(deposit_id)
            message = f"{plain(deposit['model'])} can no longer answer {quoted_classes(deposit)} without a withdrawal."
            show(as_json, deposit, f"Restoration ended: {message}")
        elif reason:
            restored = lirf.restore(deposit_id, reason=reason)
            message = f"Restored: {plain(restored['model'])} can answer {quoted_classes(restored)} again."
            show(as_json, restored, message)


@commands.command("purge")
def purge_deposit(
    deposit_id: DepositId,
    reason: Reason,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Confirm without a prompt: the deposit's classes, separated by commas. Quote a name with a comma."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Destroy a deposit module for good. This cannot be undone.

    Nobody can withdraw or restore its classes afterwards.

    Example: lirf purge DEPOSIT --reason "erasure request" --classes "auk,emu"
    """
    with connect(url, state) as lirf:
        deposit = lirf.deposit(deposit_id)
        if classes is None:
            about = "those images of " if deposit["kind"] == "samples" else ""
            err.print(
                f"This destroys all that {deposit['model']} knew about {about}[bold]{quoted_classes(deposit)}[/bold]."
            )
            classes = typer.prompt(
                "To confirm, type the classes, separated by commas (put a name with a comma in quotes)", err=True
            )
        confirmed = _listed_classes(classes)
        purged = lirf.purge(deposit_id, classes=confirmed, reason=reason)
        backups = backups_until(purged["shred_effective_at"])
        of = "the images of " if deposit["kind"] == "samples" else ""
        message = f"Purged: nobody can bring back {of}{quoted_classes(purged)} of {purged['model']}. {backups}"
        if purged["scrubbed"]:
            count = len(purged["scrubbed"])
            use = "other deposit uses a scrubbed module" if count == 1 else "other deposits use scrubbed modules"
            message += (
                f" {count} {use} now, so their classes may be answered a little less often. If there are held-out "
                "images, a worker measures that."
            )
        message += not_erased(purged["still_in"], purged["also_in"])
        message += f" {plain(purged['rest']['what'])} {plain(purged['rest']['cure'])}"
        show(as_json, purged, message)


def _listed_classes(text: str) -> list[str]:
    """The names between commas; one with a comma stands in quotes."""
    try:
        return [name.strip() for name in next(csv.reader([text], skipinitialspace=True, strict=True), [])]
    except csv.Error as error:
        raise typer.BadParameter(f'{text!r} is no list of classes: {error}. Write it like auk,emu,"a, b".') from None


def _discard(lirf: "Client", model: str, *datasets: Dataset | None) -> None:
    for dataset in datasets:
        if dataset:
            lirf.discard_dataset(model, dataset["id"])


def _follow(lirf: "Client", deposit_id: str, as_json: bool) -> None:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    deposit: Deposit | None = None
    with Progress(*columns, console=err, disable=as_json) as bar:
        task = bar.add_task("queued", total=None, text="")
        for deposit in lirf.follow(deposit_id):
            _advance(bar, task, deposit)
        if deposit and deposit["state"] == "deposited":
            bar.update(task, total=1, completed=1)
    assert deposit is not None
    if deposit["state"] != "deposited":
        if as_json:
            out.print_json(json.dumps(deposit))
        fail(f"Deposit {deposit_id} {deposit['state']}: {deposit['failure'] or 'the model is unchanged.'}")
    others = [lirf.deposit(one["deposit"]) for one in deposit["groups"] if one["deposit"] != deposit_id]
    show(as_json, deposit, "\n".join(map(_result, [deposit, *others])))
    if not as_json and lirf.model(deposit["model"])["hardening"]["state"] in ("queued", "running"):
        model = plain(deposit["model"])
        say(f"A worker hardens the target now; until then the working target answers. Follow it: lirf harden {model}")


def _advance(bar: "Progress", task: "TaskID", deposit: Deposit) -> None:
    """Show the progress. The bar swings to and fro in a phase without steps; the clock runs on across phases."""
    progress = deposit["progress"]
    text = f"epoch {progress['epoch']}/{progress['epochs']}" if progress["epoch"] else ""
    if loss := (progress["losses"] or {}).get("total"):
        text += f", loss {loss:.2f}"
    phase = (progress["phase"] if deposit["state"] == "running" else deposit["state"]) or ""
    bar.update(task, description=PHASES.get(phase, phase), completed=progress["step"] or 0, text=text)
    row = bar.tasks[task]
    row.total, row.finished_time = progress["steps"] or None, None  # `update(total=None)` would keep the old total


def _result(deposit: Deposit) -> str:
    is_of_samples = deposit["kind"] == "samples"
    text = f"Deposit [bold]{deposit['id']}[/bold] is done: {'images of ' if is_of_samples else ''}"
    text += f"{quoted_classes(deposit)} of {deposit['model']}"
    text += f" (revision {deposit['revision']}, module of {deposit['module_bytes']:,} bytes)."
    if metrics := deposit["metrics"]:
        membership = metrics["membership"]
        attacks = {name: membership[name] for name in ("original", "target", "recover")} if membership else {}
        for name in ("original", "before", "target", "recover"):
            accuracy: NetworkAccuracy | None = metrics[name]
            if accuracy is None or (name == "before" and accuracy == metrics["original"]):
                continue  # the original was destroyed, or the deposit started from it
            text += f"\n  {name:8} preserved {percent(accuracy['preserved_accuracy']):>7}"
            if not is_of_samples:
                text += f"  deposited {percent(accuracy['deposited_accuracy']):>7}"
                text += f"  average {percent(accuracy['average_accuracy']):>7}"
            elif attack := attacks.get(name):
                text += f"  membership {attack['auc']:.3f} ± {attack['error']:.3f}"
        if warning := remains(metrics["target"]["deposited_accuracy"]):
            text += f"\n[bold yellow]{warning} {ADVICE}[/bold yellow]"
    if losses := deposit["losses"]:
        by_this = max((loss["before"] - loss["after"] for loss in losses["preserved"]), default=None)
        since = losses["total"]
        text += (
            f"\n  Preserved classes lost {_points(by_this)} by this deposit and {_points(since)} since the original."
        )
    for warning in deposit["warnings"]:
        text += f"\n[bold yellow]{plain(warning)}[/bold yellow]"
    return text


def _points(value: float | None) -> str:
    return "an unknown number of points" if value is None else f"{value:.1f} points"
