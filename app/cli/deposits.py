"""Deposits: `lirf deposit`, `follow`, `cancel`, `deposits`, `restore`, `purge`."""

import csv
import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, ModelName, Reason, State, Url
from app.cli.output import cell, err, fail, moment, names, out, percent, quoted, show, table
from app.evidence.figures import ADVICE, remains
from lirf_client import Client, Deposit, LirfError

PHASES = {"preparing": "making proxy images", "evaluating": "measuring"}

commands = typer.Typer()


@commands.command()
def deposit(
    model: ModelName,
    images: Annotated[
        Path, typer.Argument(exists=True, help="Deposit set: a folder of class folders, or a zip of them.")
    ],
    reason: Annotated[str, typer.Option(help="Why these classes are to be forgotten; the audit keeps it.")],
    evaluation: Annotated[
        Path | None,
        typer.Option(exists=True, help="Held-out images of all classes, to measure accuracy before and after."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the deposit set; default: 3, or so many as make 120 steps.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step; default: 128.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the one-cycle schedule.")] = None,
    pruning_rate: Annotated[float | None, typer.Option(help="Share of filters the module goes without.")] = None,
    crop_padding: Annotated[int, typer.Option(help="Augmentation: pixels of random crop.")] = 4,
    flip: Annotated[bool, typer.Option(help="Augmentation: mirror images; not where that makes another class.")] = True,
    seed: Annotated[int, typer.Option(help="Same seed, same machine, same result.")] = 0,
    keep_dataset: Annotated[bool, typer.Option(help="Do not shred the deposit set when the deposit ends.")] = False,
    is_examined: Annotated[
        bool,
        typer.Option(
            "--evidence/--no-evidence", help="Gather evidence once it is made, where there are held-out images."
        ),
    ] = True,
    wait: Annotated[bool, typer.Option(help="Show progress until it ends; Ctrl-C leaves it running.")] = True,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Forget the classes of the images, and keep what was known of them as a deposit module."""
    given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "pruning_rate": pruning_rate}
    config: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config |= {"seed": seed, "augmentation": {"crop_padding": crop_padding, "horizontal_flip": flip}}
    with connect(url, state) as lirf:
        if evaluation:
            with _zipped(evaluation) as archive:
                lirf.upload_dataset(model, archive, purpose="evaluation")
        with _zipped(images) as archive:
            dataset = lirf.upload_dataset(model, archive)
        try:
            found = lirf.request_deposit(
                model, dataset["id"], reason=reason, config=config, keep_dataset=keep_dataset, evidence=is_examined
            )
        except LirfError:
            lirf.discard_dataset(model, dataset["id"])
            raise
        if not wait:
            show(as_json, found, f"Deposit [bold]{found['id']}[/bold] is queued.")
            return
        _follow(lirf, found["id"], as_json)


@commands.command()
def follow(
    deposit_id: Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of the deposit.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Show the progress of a deposit until it ends."""
    with connect(url, state) as lirf:
        _follow(lirf, deposit_id, as_json)


@commands.command()
def cancel(
    deposit_id: Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of the deposit.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Stop a deposit that has not ended. The model stays as it was."""
    with connect(url, state) as lirf:
        found = lirf.cancel(deposit_id)
        show(as_json, found, f"Deposit {deposit_id} {'is being' if found['state'] == 'running' else 'was'} cancelled.")


@commands.command()
def deposits(model: ModelName, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List the deposits of a model, newest first."""
    with connect(url, state) as lirf:
        found = lirf.deposits(model)
        headers = "id", "classes", "state", "requested at", "by", "reason"
        rows = [
            (
                one["id"],
                names(one),
                one["state"],
                moment(one["created_at"]),
                cell(one["created_by"]),
                cell(one["reason"]),
            )
            for one in found
        ]
        listed = table(headers, rows, ("by", "requested at", "reason"))
        show(as_json, found, listed if found else f"Nothing of {escape(model)} was deposited yet.")


@commands.command()
def restore(
    deposit_id: Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of a finished deposit.")],
    reason: Annotated[str | None, typer.Option(help="Why; the audit keeps it.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="End it: the classes are deposited again, at once.")] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Switch the classes of a deposit back on for good, without a withdrawal; --undo switches them off again."""
    if undo == (reason is not None):
        raise typer.BadParameter("give a --reason to restore, or --undo to end it.")
    with connect(url, state) as lirf:
        if undo:
            lirf.end_restoration(deposit_id)
            found = lirf.deposit(deposit_id)
            show(as_json, found, f"{quoted(found)} of {escape(found['model'])} are deposited again.")
        elif reason:
            restored = lirf.restore(deposit_id, reason=reason)
            told = f"{quoted(restored)} of {escape(restored['model'])} answer from now on, without a withdrawal."
            show(as_json, restored, told)


@commands.command()
def purge(
    deposit_id: Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of a finished deposit.")],
    reason: Reason,
    classes: Annotated[
        str | None, typer.Option(help="The deposit's classes, by commas, those with a comma in quotes: asks nothing.")
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Destroy a deposit module for good: nobody can withdraw its classes any more. Cannot be undone."""
    with connect(url, state) as lirf:
        found = lirf.deposit(deposit_id)
        if classes is None:
            err.print(f"This destroys the only copy of what {found['model']} knew of [bold]{quoted(found)}[/bold].")
            classes = typer.prompt("Type the classes, by commas (names with a comma in quotes), to go on", err=True)
        named = [name.strip() for name in next(csv.reader([classes], skipinitialspace=True), [])]
        purged = lirf.purge(deposit_id, classes=named, reason=reason)
        gone = purged["shred_effective_at"]
        backups = f"Backups hold the keys until {gone}." if gone else "Backups may hold the keys: see LIRF_BACKUP_DAYS."
        show(as_json, purged, f"Purged: {quoted(purged)} of {purged['model']} cannot be brought back. {backups}")


def _follow(lirf: Client, deposit_id: str, as_json: bool) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    last: Deposit | None = None
    with Progress(*columns, console=err, disable=as_json) as bar:
        task = bar.add_task("queued", total=None, text="")
        for last in lirf.follow(deposit_id):
            _advance(bar, task, last)
        if last and last["state"] == "deposited":
            bar.update(task, total=1, completed=1)
    assert last is not None
    if last["state"] != "deposited":
        if as_json:
            out.print_json(json.dumps(last))
        fail(f"deposit {deposit_id} {last['state']}: {last['failure'] or 'the model is as it was.'}")
    show(as_json, last, _result(last))


def _advance(bar: Progress, task: TaskID, deposit: Deposit) -> None:
    """Where nothing is counted the bar goes to and fro; the clock goes on from phase to phase."""
    progress = deposit["progress"]
    text = f"epoch {progress['epoch']}/{progress['epochs']}" if progress["epoch"] else ""
    if loss := (progress["losses"] or {}).get("total"):
        text += f", loss {loss:.2f}"
    phase = (progress["phase"] if deposit["state"] == "running" else deposit["state"]) or ""
    bar.update(task, description=PHASES.get(phase, phase), completed=progress["step"] or 0, text=text)
    shown = bar.tasks[task]
    shown.total, shown.finished_time = progress["steps"] or None, None  # `update` takes no total for no change


def _result(deposit: Deposit) -> str:
    text = f"Deposit [bold]{deposit['id']}[/bold]: {quoted(deposit)} of {deposit['model']} are deposited"
    text += f" (revision {deposit['revision']}, module of {deposit['module_bytes']:,} bytes)."
    if metrics := deposit["metrics"]:
        for name in ("original", "target", "recover"):
            accuracy = metrics[name]
            text += f"\n  {name:8} preserved {percent(accuracy['preserved_accuracy']):>7}"
            text += f"  deposited {percent(accuracy['deposited_accuracy']):>7}"
            text += f"  average {percent(accuracy['average_accuracy']):>7}"
        if still := remains(metrics["target"]["deposited_accuracy"]):
            text += f"\n[bold yellow]{still} {ADVICE}[/bold yellow]"
    return text


@contextmanager
def _zipped(images: Path) -> Iterator[Path]:
    """The images as a zip: a folder is packed into a temporary one, uncompressed, since images are compressed."""
    if images.is_file():
        yield images
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "images.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in sorted(images.rglob("*")):
                if file.is_file():
                    zipped.write(file, file.relative_to(images))
        yield archive
