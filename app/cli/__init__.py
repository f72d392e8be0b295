"""The `lirf` command: `up` runs the service, everything else talks to it over HTTP."""

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

from app.cli import approvals, audit, certificates, evidence, keys, vault, withdrawals
from app.cli.common import (
    DEFAULT_STATE,
    DEFAULT_URL,
    Json,
    ModelName,
    Reason,
    State,
    Url,
    cell,
    err,
    fail,
    moment,
    names,
    out,
    percent,
    quoted,
    service,
    show,
    table,
)
from app.cli.vault import vault_here
from app.evidence.figures import ADVICE, remains
from lirf_client import Client, Deposit, LirfError

ARCHITECTURES = (  # of lirf_core, which takes seconds to import
    "resnet18, resnet34, resnet50, resnet18-small, resnet34-small, resnet50-small, vgg11_bn, vgg13_bn, vgg16_bn, "
    "vgg19_bn, mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large, efficientnet_b0, efficientnet_b1, "
    "efficientnet_b2, efficientnet_b3, efficientnet_b4, efficientnet_b5, efficientnet_b6, efficientnet_b7, "
    "efficientnet_v2_s, efficientnet_v2_m, efficientnet_v2_l, densenet121, densenet161, densenet169, densenet201, "
    "convnext_tiny, convnext_small, convnext_base, convnext_large, vit_b_16, vit_b_32"
)
PHASES = {"preparing": "making proxy images", "evaluating": "measuring"}
HELP = """Learning with Recoverable Forgetting: switch off what an image classifier knows of some classes, and on again.

Start a service with [bold]lirf up[/bold]; the other commands talk to it. They find it by --url or LIRF_URL, and the API
key by LIRF_API_KEY or in the state folder of a service on this machine.
"""

main = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
main.add_typer(withdrawals.commands)
main.add_typer(evidence.commands)
main.add_typer(certificates.commands, name="certificate")
main.add_typer(keys.commands, name="keys")
main.add_typer(audit.commands, name="audit")
main.add_typer(vault.commands, name="vault")
main.add_typer(approvals.commands, name="approvals")


@main.command()
def up(
    state: State = DEFAULT_STATE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Run everything on this machine: API, worker and reconciler, in one state folder. Ctrl-C stops it all."""
    from app.base.settings import Settings
    from app.embedded import AlreadyRunning, Embedded, locked  # torch takes seconds; other commands do not need it

    err.print("Starting; the first time takes some ten seconds ...")
    settings = Settings(state_folder=state)
    if "log_level" not in settings.model_fields_set:
        settings.log_level = "WARNING"  # a line for each request is not for this terminal
    try:
        with locked(settings.folder):
            service = Embedded(settings, host, port)
            key_file = service.prepare()
            service.run(lambda: _greet(f"http://{host}:{port}", settings.folder, key_file))
    except AlreadyRunning as error:
        fail(str(error))
    except KeyboardInterrupt:  # which uvicorn passes on, once everything is stopped
        out.print("Stopped. A deposit in progress goes on at the next start.")


def _greet(url: str, folder: Path, key_file: Path | None) -> None:
    out.print(f"\n[bold green]LIRF is up[/bold green] at [bold]{url}[/bold] · state in {folder}", soft_wrap=True)
    out.print(f"Console: {url}/console · API docs: {url}/docs", soft_wrap=True)
    if key_file:
        out.print(f"A first administrator key was made; it is told here once and kept in {key_file} (mode 0600):")
        out.print(f"  [bold]{key_file.read_text().strip()}[/bold]", soft_wrap=True)
    out.print("Next: [bold]lirf register --help[/bold], then deposit, withdraw, classes. Ctrl-C stops everything.\n")


@main.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer; each has a cache of its own.")] = 1,
) -> None:
    """Run the API alone, as one of many; workers and the reconciler are processes of their own."""
    from app import serving

    serving.serve(host, port, workers)


@main.command()
def migrate() -> None:
    """Bring the database of LIRF_DATABASE_URL to the newest schema (`up` does so by itself)."""
    from app.base.database import Database
    from app.base.settings import Settings
    from migrations import upgrade

    upgrade(Database(Settings().database))
    out.print("The database is up to date.")


@main.command()
def backup(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Where the copy is kept; only what is new is added.")],
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Copy database and vault of a service on this machine, which may run. The master key is not copied."""
    from app.vault import backup as backups

    with vault_here(state) as (settings, database, opened), err.status("copying ..."):
        total = backups.take(database, opened, folder)
    has_database = database.url.get_backend_name() == "sqlite"
    told = f"{total} objects and the database are in {escape(str(folder))}."
    if not has_database:
        told = f"{total} objects are in {escape(str(folder))}; before them, copy the database with pg_dump."
    key = escape(str(settings.master_key))
    answer = {"objects": total, "has_database": has_database}
    show(as_json, answer, f"{told} Keep {key} elsewhere: nothing opens without it.")


@main.command()
def register(
    name: Annotated[str, typer.Argument(help="Name of the new model: lower-case letters, digits, '.', '_' and '-'.")],
    weights: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="safetensors file of the state dict.")],
    classes: Annotated[
        str, typer.Option(help="Comma-separated names in the order of the outputs, or @FILE, a line each.")
    ],
    architecture: Annotated[str, typer.Option(help=f"One of {ARCHITECTURES}.")],
    size: Annotated[int, typer.Option(help="Height and width of the input in pixels.")],
    mean: Annotated[str, typer.Option(help="Per channel, of values from 0 to 1.")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="Per channel.")] = "0.229,0.224,0.225",
    width: Annotated[float, typer.Option(help="Width factor of a -small architecture.")] = 1.0,
    split: Annotated[
        str | None, typer.Option(help="Last module of the lower part, such as layer2 of a ResNet; else its middle.")
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Register a classifier: its description, then its weights."""
    names = Path(classes[1:]).read_text().splitlines() if classes.startswith("@") else classes.split(",")
    preprocessing = {"height": size, "width": size, "mean": _numbers(mean), "std": _numbers(std)}
    with service(url, state) as lirf:
        lirf.register_model(
            name,
            architecture={"name": architecture, "width": width},
            classes=[label.strip() for label in names if label.strip()],
            preprocessing=preprocessing,
            split=split,
        )
        try:
            model = lirf.put_weights(name, weights)
        except LirfError:
            lirf.remove_unfinished_model(name)
            raise
        show(as_json, model, f"Model [bold]{name}[/bold] serves its original network, {len(model['classes'])} classes.")


@main.command()
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
    with service(url, state) as lirf:
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


@main.command()
def follow(
    deposit_id: Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of the deposit.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Show the progress of a deposit until it ends."""
    with service(url, state) as lirf:
        _follow(lirf, deposit_id, as_json)


@main.command()
def cancel(
    deposit_id: Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of the deposit.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Stop a deposit that has not ended. The model stays as it was."""
    with service(url, state) as lirf:
        found = lirf.cancel(deposit_id)
        show(as_json, found, f"Deposit {deposit_id} {'is being' if found['state'] == 'running' else 'was'} cancelled.")


@main.command()
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
    with service(url, state) as lirf:
        if undo:
            lirf.end_restoration(deposit_id)
            found = lirf.deposit(deposit_id)
            show(as_json, found, f"{quoted(found)} of {escape(found['model'])} are deposited again.")
        elif reason:
            restored = lirf.restore(deposit_id, reason=reason)
            told = f"{quoted(restored)} of {escape(restored['model'])} answer from now on, without a withdrawal."
            show(as_json, restored, told)


@main.command()
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
    with service(url, state) as lirf:
        found = lirf.deposit(deposit_id)
        if classes is None:
            err.print(f"This destroys the only copy of what {found['model']} knew of [bold]{quoted(found)}[/bold].")
            classes = typer.prompt("Type the classes, by commas (names with a comma in quotes), to go on", err=True)
        named = [name.strip() for name in next(csv.reader([classes], skipinitialspace=True), [])]
        purged = lirf.purge(deposit_id, classes=named, reason=reason)
        gone = purged["shred_effective_at"]
        backups = f"Backups hold the keys until {gone}." if gone else "Backups may hold the keys: see LIRF_BACKUP_DAYS."
        show(as_json, purged, f"Purged: {quoted(purged)} of {purged['model']} cannot be brought back. {backups}")


@main.command()
def models(url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List the models."""
    with service(url, state) as lirf:
        found = lirf.models()
        headers = "model", "architecture", "classes", "state", "revision", "registered by"
        rows = [
            (
                *map(cell, (model["name"], model["architecture"]["name"], len(model["classes"]))),
                *map(cell, (model["state"], model["revision"], model["created_by"])),
            )
            for model in found
        ]
        listed = table(headers, rows, ("registered by", "revision"))
        show(as_json, found, listed if found else "There is no model yet; `lirf register --help` says how to add one.")


@main.command()
def deposits(model: ModelName, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List the deposits of a model, newest first."""
    with service(url, state) as lirf:
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


@main.command()
def classes(model: ModelName, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Show every class of a model: its state, since when, by whom, why, and accuracy before and after."""
    with service(url, state) as lirf:
        found = lirf.classes(model)
        headers = "class", "state", "since", "by", "reason", "deposit", "before", "after", "recovered"
        colours = {"purged": "bright_black", "deposited": "red", "withdrawn": "yellow", "depositing": "magenta"}
        rows = [
            (
                cell(item["name"]),
                f"[{colours.get(item['state'], 'green')}]{item['state']}[/]",
                moment(item["since"]),
                cell(item["by"]),
                cell(item["reason"]),
                cell(item["deposit_id"]),
                *(percent(item[key]) for key in ("accuracy_before", "accuracy_after", "accuracy_recovered")),
            )
            for item in found
        ]
        show(as_json, found, table(headers, rows, ("by", "since", "deposit", "recovered", "reason")))


@main.command()
def policy(
    model: ModelName,
    original: Annotated[
        str | None, typer.Option(help="seal: networks from before a deposit are kept, encrypted; destroy: shredded.")
    ] = None,
    second_person: Annotated[
        bool | None,
        typer.Option(help="Whether withdrawals, restorations, purges and this policy need somebody with another key."),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is changed; the audit keeps it.")] = None,
    confirmed: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Show a model's policy, or change it."""
    with service(url, state) as lirf:
        if original is None and second_person is None:
            found = lirf.policy(model)
        else:
            if reason is None:
                raise typer.BadParameter("a change needs a --reason.")
            if original == "destroy" and not confirmed:
                err.print(f"This destroys every network of {escape(model)} that knows what is deposited.")
                typer.confirm("Go on?", abort=True, err=True)
            found = lirf.change_policy(model, reason=reason, original=original, needs_second_person=second_person)
        needs = "need" if found["needs_second_person"] else "do not need"
        show(
            as_json,
            found,
            f"{escape(model)}: networks from before a deposit: {found['original']}. "
            f"Withdrawals, restorations, purges and changes of this policy {needs} a second person.",
        )


@main.command()
def predict(
    model: ModelName,
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="PNG or JPEG file.")],
    top: Annotated[int, typer.Option(help="How many classes.")] = 5,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--token", envvar="LIRF_WITHDRAWAL_TOKEN", help="Of a held withdrawal; may be given several times."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Ask a model what an image shows."""
    with service(url, state) as lirf:
        found = lirf.predict(model, image, top=top, tokens=tokens or [])
        listed = table(
            ("class", "probability"),
            [(cell(item["class"]), f"{item['probability']:.4f}") for item in found["predictions"]],
        )
        listed.title = f"{model}, revision {found['revision']}"
        show(as_json, found, listed)
        if found["withdrawals"] and not as_json:
            out.print(f"Seen through withdrawal {', '.join(found['withdrawals'])}.", soft_wrap=True)


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


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a list of numbers such as 0.5,0.5,0.5") from None
