"""The `lirf` command: `up` runs the service, everything else talks to it over HTTP."""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from app.audit import anchors
from app.audit.chain import Head
from lirf_client import AuditHead, Client, Deposit, LirfError, Purge, Withdrawal

HELP = """Learning with Recoverable Forgetting: switch off what an image classifier knows of some classes, and on again.

Start a service with [bold]lirf up[/bold]; the other commands talk to it. They find it by --url or LIRF_URL, and the API
key by LIRF_API_KEY or in the state folder of a service on this machine.
"""

main = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
keys = typer.Typer(help="API keys (administrators).", no_args_is_help=True)
main.add_typer(keys, name="keys")
audit = typer.Typer(
    help="Who did what, when and why; and whether that is still what was written.", no_args_is_help=True
)
main.add_typer(audit, name="audit")
vault = typer.Typer(help="The vault of a service on this machine.", no_args_is_help=True)
main.add_typer(vault, name="vault")
out, err = Console(), Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]
Url = Annotated[str, typer.Option("--url", envvar="LIRF_URL", help="Address of the service.")]
State = Annotated[Path, typer.Option("--state", envvar="LIRF_STATE_FOLDER", help="State folder of a service here.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_STATE = Path("var/lirf")


@main.command()
def up(
    state: State = DEFAULT_STATE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Run everything on this machine: API, worker and reconciler, in one state folder. Ctrl-C stops it all."""
    from app.embedded import AlreadyRunning, Embedded, locked  # torch takes seconds; other commands do not need it
    from app.settings import Settings

    settings = Settings(state_folder=state)
    if "log_level" not in settings.model_fields_set:
        settings.log_level = "WARNING"  # a line for each request is not for this terminal
    try:
        with locked(settings.folder):
            service = Embedded(settings, host, port)
            key_file = service.prepare()
            service.run(lambda: _greet(f"http://{host}:{port}", settings.folder, key_file))
    except AlreadyRunning as error:
        _fail(str(error))
    except KeyboardInterrupt:  # which uvicorn passes on, once everything is stopped
        out.print("Stopped. A deposit in progress goes on at the next start.")


def _greet(url: str, folder: Path, key_file: Path | None) -> None:
    out.print(
        f"\n[bold green]LIRF is up[/bold green] at [bold]{url}[/bold] · API docs at {url}/docs · state in {folder}"
    )
    if key_file:
        out.print(f"A first administrator key was made; it is told here once and kept in {key_file} (mode 0600):")
        out.print(f"  [bold]{key_file.read_text().strip()}[/bold]", soft_wrap=True)
    out.print("Next: [bold]lirf register --help[/bold], then deposit, withdraw, classes. Ctrl-C stops everything.\n")


@main.command()
def migrate() -> None:
    """Bring the database of LIRF_DATABASE_URL to the newest schema (`up` does so by itself)."""
    from app.database import Database
    from app.settings import Settings

    Database(Settings().database).upgrade()
    out.print("The database is up to date.")


@main.command()
def register(
    name: Annotated[str, typer.Argument(help="Name of the new model: lower-case letters, digits, '.', '_' and '-'.")],
    weights: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="safetensors file of the state dict.")],
    classes: Annotated[
        str, typer.Option(help="Comma-separated names in the order of the outputs, or @FILE, a line each.")
    ],
    architecture: Annotated[str, typer.Option(help="Such as resnet18, resnet50-small, vgg16_bn or vit_b_16.")],
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
    with _service(url, state) as lirf:
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
        _show(
            as_json, model, f"Model [bold]{name}[/bold] serves its original network, {len(model['classes'])} classes."
        )


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
    epochs: Annotated[int | None, typer.Option(help="Passes over the deposit set.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the one-cycle schedule.")] = None,
    pruning_rate: Annotated[float | None, typer.Option(help="Share of filters the module goes without.")] = None,
    crop_padding: Annotated[int, typer.Option(help="Augmentation: pixels of random crop.")] = 4,
    flip: Annotated[bool, typer.Option(help="Augmentation: mirror images; not where that makes another class.")] = True,
    seed: Annotated[int, typer.Option(help="Same seed, same machine, same result.")] = 0,
    keep_dataset: Annotated[bool, typer.Option(help="Do not shred the deposit set when the deposit ends.")] = False,
    wait: Annotated[bool, typer.Option(help="Show progress until it ends; Ctrl-C leaves it running.")] = True,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Forget the classes of the images, and keep what was known of them as a deposit module."""
    given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "pruning_rate": pruning_rate}
    config: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config |= {"seed": seed, "augmentation": {"crop_padding": crop_padding, "horizontal_flip": flip}}
    with _service(url, state) as lirf:
        if evaluation:
            with _zipped(evaluation) as archive:
                lirf.upload_dataset(model, archive, purpose="evaluation")
        with _zipped(images) as archive:
            dataset = lirf.upload_dataset(model, archive)
        try:
            found = lirf.request_deposit(model, dataset["id"], reason=reason, config=config, keep_dataset=keep_dataset)
        except LirfError:
            lirf.discard_dataset(model, dataset["id"])
            raise
        if not wait:
            _show(as_json, found, f"Deposit [bold]{found['id']}[/bold] is queued.")
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
    with _service(url, state) as lirf:
        _follow(lirf, deposit_id, as_json)


@main.command()
def cancel(
    deposit_id: Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of the deposit.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Stop a deposit that has not ended. The model stays as it was."""
    with _service(url, state) as lirf:
        found = lirf.cancel(deposit_id)
        _show(as_json, found, f"Deposit {deposit_id} {'is being' if found['state'] == 'running' else 'was'} cancelled.")


@main.command()
def withdraw(
    deposits: Annotated[list[str], typer.Argument(metavar="DEPOSIT...", help="Ids of finished deposits of one model.")],
    holder: Annotated[str, typer.Option(help="For whom.")],
    reason: Annotated[str, typer.Option(help="Why; the audit keeps it.")],
    hours: Annotated[float | None, typer.Option(help="When it ends by itself; without it, when it is revoked.")] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Make deposited classes answer again, for a time."""
    with _service(url, state) as lirf:
        found = lirf.withdraw(
            deposits, holder=holder, reason=reason, expires_in_seconds=hours * 3600 if hours is not None else None
        )
        until = f"until {found['expires_at']}" if found["expires_at"] else "until it is revoked"
        text = f"Withdrawal [bold]{found['id']}[/bold]: {_names(found)} of {found['model']} answer {until}."
        _show(as_json, found, text)


@main.command()
def revoke(
    withdrawal_id: Annotated[str, typer.Argument(metavar="WITHDRAWAL", help="Id of the withdrawal.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """End a withdrawal at once."""
    with _service(url, state) as lirf:
        found = lirf.revoke(withdrawal_id)
        _show(as_json, found, f"Revoked: {_names(found)} of {found['model']} do not answer any more.")


@main.command()
def purge(
    deposit_id: Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of a finished deposit.")],
    reason: Annotated[str, typer.Option(help="Why; the audit keeps it.")],
    classes: Annotated[str | None, typer.Option(help="The deposit's classes, by commas: asks nothing.")] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Destroy a deposit module for good: nobody can withdraw its classes any more. Cannot be undone."""
    with _service(url, state) as lirf:
        found = lirf.deposit(deposit_id)
        if classes is None:
            err.print(f"This destroys the only copy of what {found['model']} knew of [bold]{_names(found)}[/bold].")
            classes = typer.prompt("Type the classes, by commas, to go on", err=True)
        named = [name.strip() for name in classes.split(",")]
        purged = lirf.purge(deposit_id, classes=named, reason=reason)
        gone = purged["shred_effective_at"]
        backups = f"Backups hold the keys until {gone}." if gone else "Backups may hold the keys: see LIRF_BACKUP_DAYS."
        _show(as_json, purged, f"Purged: {_names(purged)} of {purged['model']} cannot be brought back. {backups}")


@main.command()
def models(url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List the models."""
    with _service(url, state) as lirf:
        found = lirf.models()
        table = Table("model", "architecture", "classes", "state", "revision", "registered by")
        for model in found:
            row = model["name"], model["architecture"]["name"], len(model["classes"]), model["state"], model["revision"]
            table.add_row(*map(_cell, row), model["created_by"])
        _show(as_json, found, table if found else "There is no model yet; `lirf register --help` says how to add one.")


@main.command()
def classes(model: ModelName, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Show every class of a model: its state, since when, by whom, why, and accuracy before and after."""
    with _service(url, state) as lirf:
        found = lirf.classes(model)
        table = Table("class", "state", "since", "by", "reason", "deposit", "before", "after", "recovered")
        colours = {"purged": "bright_black", "deposited": "red", "withdrawn": "yellow", "depositing": "magenta"}
        for item in found:
            style = colours.get(item["state"], "green")
            table.add_row(
                _cell(item["name"]),
                f"[{style}]{item['state']}[/{style}]",
                item["since"][:19].replace("T", " "),
                _cell(item["by"]),
                _cell(item["reason"]),
                _cell(item["deposit_id"]),
                *(_percent(item[key]) for key in ("accuracy_before", "accuracy_after", "accuracy_recovered")),
            )
        _show(as_json, found, table)


@contextmanager
def _vault_here(state: Path) -> Iterator[tuple[Any, Any]]:
    """Database and vault of the service whose settings are here: these commands work beside it, not over HTTP."""
    from app.database import Database
    from app.settings import Settings
    from app.vault.service import open_vault

    settings = Settings(state_folder=state)
    if not settings.master_key.exists():
        _fail(f"there is no vault in '{state}'; give --state, or the LIRF_... settings of the service.")
    database = Database(settings.database)
    try:
        yield database, open_vault(settings)
    finally:
        database.engine.dispose()


@vault.command("check")
def check_vault(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Open every stored object and look for what does not belong there; exit code 1 if anything is lost."""
    from app.vault import maintenance

    with _vault_here(state) as (database, opened), err.status("opening every object ..."):
        findings = maintenance.check(database, opened)
    table = Table("object", "what", "lost")
    for finding in findings:
        table.add_row(finding.object_name[:16], finding.what, "yes" if finding.is_loss else "no")
    _show(
        as_json,
        [vars(finding) for finding in findings],
        table if findings else "Every object opens, none is without a row.",
    )
    if any(finding.is_loss for finding in findings):
        raise typer.Exit(1)


@vault.command("gc")
def clear_vault(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Remove bytes that no row can open: of shredded objects, and of interrupted work that is older than a day."""
    from app.vault import maintenance

    with _vault_here(state) as (database, opened):
        removed = maintenance.gc(database, opened)
    _show(as_json, removed, f"{len(removed)} objects removed.")


@vault.command("rotate-key")
def rotate_key(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Make a new master key and wrap every data key with it; objects are not rewritten, the service goes on."""
    from app.settings import Settings
    from app.vault import maintenance
    from app.vault.keys import FileMasterKeys

    with _vault_here(state) as (database, _), err.status("wrapping data keys ..."):
        keys = FileMasterKeys(Settings(state_folder=state).master_key)
        total = maintenance.rotate_key(database, keys)
    told = f"Master key {keys.version} wraps {total} data keys now. Back the key file up; older keys stay in it."
    _show(as_json, {"version": keys.version, "data_keys": total}, told)


AnchorFile = Annotated[Path, typer.Argument(dir_okay=False, help="A file outside the service's own folders.")]
AuditModel = Annotated[str | None, typer.Option("--model", help="Only events of this model.")]
AuditAction = Annotated[str | None, typer.Option("--action", help="Only this action, such as deposit.finished.")]


@audit.command("list")
def list_audit(
    model: AuditModel = None,
    action: AuditAction = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 50,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """List audit events: who did what, when and why."""
    with _service(url, state) as lirf:
        found = list(lirf.audit_events(limit=limit, **_given(model=model, action=action)))
        table = Table("at (UTC)", "actor", "action", "model", "subject", "reason")
        for event in found:
            row = event["actor"], event["action"], event["model"], event["subject"], event["reason"]
            table.add_row(event["at"][:19].replace("T", " "), *map(_cell, row))
        _show(as_json, found, table)


@audit.command("export")
def export_audit(
    model: AuditModel = None,
    action: AuditAction = None,
    since: Annotated[str | None, typer.Option(help="From this time on, such as 2026-11-01T00:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a header; otherwise JSON lines.")] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
) -> None:
    """Print all events, oldest first, for a file or another program."""
    filters = _given(model=model, action=action, since=since, until=until)
    with _service(url, state) as lirf:
        for line in lirf.audit_export("csv" if csv else "jsonl", **filters):
            typer.echo(line)


@audit.command("anchor")
def anchor_audit(file: AnchorFile, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Add the newest event's number and digest to a file, for `lirf audit verify --anchor FILE`."""
    with _service(url, state) as lirf:
        head = lirf.audit_head()
    anchors.append(file, Head(**head))
    told = f"Event {head['number']} is anchored in {escape(str(file))}; keep it where the service cannot write."
    _show(as_json, head, told)


@audit.command("verify")
def verify_audit(
    anchor: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="What `lirf audit anchor` wrote before.")
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Walk the chain of events and tell what was changed, removed, added or reordered; exit code 1 if anything was."""
    with _service(url, state) as lirf:
        found = lirf.verify_audit(_anchor_in(anchor) if anchor else None)
    table = Table("event", "what is wrong")
    for fault in found["faults"]:
        table.add_row(str(fault["number"]), fault["what"])
    told = f"All {found['head']['number']} events are as they were written."
    if found["is_intact"] and anchor is None:
        told += " Whether the last ones were cut off, only an anchor tells."
    _show(as_json, found, told if found["is_intact"] else table)
    if not found["is_intact"]:
        raise typer.Exit(1)


def _anchor_in(file: Path) -> AuditHead:
    try:
        head = anchors.latest(file)
    except anchors.NoAnchor as error:
        _fail(str(error))
    return AuditHead(number=head.number, digest=head.digest)


def _given(**filters: str | None) -> dict[str, str]:
    return {name: value for name, value in filters.items() if value is not None}


@main.command()
def predict(
    model: ModelName,
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="PNG or JPEG file.")],
    top: Annotated[int, typer.Option(help="How many classes.")] = 5,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Ask a model what an image shows."""
    with _service(url, state) as lirf:
        found = lirf.predict(model, image, top=top)
        table = Table("class", "probability", title=f"{model}, revision {found['revision']}")
        for item in found["predictions"]:
            table.add_row(_cell(item["class"]), f"{item['probability']:.4f}")
        _show(as_json, found, table)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Who uses it; the audit names it.")],
    role: Annotated[
        list[str] | None, typer.Option(help="operator, custodian, auditor or administrator; repeatable.")
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0, max=3650, help="Refused after so many days; none: until revoked.")
    ] = None,
    local: Annotated[
        bool, typer.Option(help="Write to the database of LIRF_DATABASE_URL directly: the first key.")
    ] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Make an API key; it is told once. Without a role it may ask for predictions and read."""
    if local:
        key = _create_local_key(name, role or [], days, state)
        _show(as_json, {"key": key}, key)
        return
    with _service(url, state) as lirf:
        found = lirf.create_key(name, role or [], expires_in_seconds=None if days is None else days * 86400)
        _show(as_json, found, found["key"])


def _create_local_key(name: str, roles: list[str], days: float | None, state: Path) -> str:
    from app.access import service as access
    from app.database import Database, now
    from app.settings import Settings

    if unknown := set(roles) - set(access.Role):
        raise typer.BadParameter(f"'{unknown.pop()}' is no role; there are {', '.join(access.Role)}.")
    ends = None if days is None else now() + timedelta(days=days)
    with Database(Settings(state_folder=state).database).session() as session:
        return access.create_key(session, access.LOCAL_ADMINISTRATOR, name, list(map(access.Role, roles)), ends)[1]


@keys.command("list")
def list_keys(url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List the API keys, without their secrets."""
    with _service(url, state) as lirf:
        found = lirf.keys()
        table = Table("id", "name", "prefix", "roles", "made", "used", "ends", "revoked")
        for key in found:
            row = (
                key["id"],
                key["name"],
                key["prefix"],
                ", ".join(key["roles"]),
                *(key[at] and key[at][:19] for at in ("created_at", "last_used_at", "expires_at", "revoked_at")),
            )
            table.add_row(*map(_cell, row))
        _show(as_json, found, table)


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, from `lirf keys list`.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Refuse a key from now on."""
    with _service(url, state) as lirf:
        lirf.revoke_key(key_id)
        _show(as_json, {"revoked": key_id}, f"Key {key_id} is refused from now on.")


@contextmanager
def _service(url: str, state: Path) -> Iterator[Client]:
    """A client; refusals and a missing service become one readable line and exit code 1."""
    file = state / "admin.key"
    is_here = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")  # this machine's key is not for others
    found = file.read_text().strip() if is_here and os.access(file, os.R_OK) else None
    key = os.environ.get("LIRF_API_KEY") or found
    try:
        with Client(url, key) as lirf:
            yield lirf
    except LirfError as error:
        _fail(f"{error} ({error.type})")
    except httpx.TransportError as error:
        _fail(f"no answer from {url} ({error}); start the service with `lirf up`, or give --url.")


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
            progress = last["progress"]
            losses = " ".join(f"{name} {value:.3f}" for name, value in (progress["losses"] or {}).items())
            text = f"epoch {progress['epoch']}/{progress['epochs']} {losses}" if progress["epoch"] else ""
            phase = progress["phase"] if last["state"] == "running" else last["state"]
            if progress["steps"]:
                bar.update(task, total=progress["steps"], completed=progress["step"], text=text)
            bar.update(task, description=phase)
    assert last is not None
    if last["state"] != "deposited":
        if as_json:
            out.print_json(json.dumps(last))
        _fail(f"deposit {deposit_id} {last['state']}: {last['failure'] or 'the model is as it was.'}")
    _show(as_json, last, _result(last))


def _result(deposit: Deposit) -> str:
    text = f"Deposit [bold]{deposit['id']}[/bold]: {_names(deposit)} of {deposit['model']} are forgotten"
    text += f" (revision {deposit['revision']}, module of {deposit['module_bytes']:,} bytes)."
    if metrics := deposit["metrics"]:
        for name in ("original", "target", "recover"):
            accuracy = metrics[name]
            text += f"\n  {name:8} preserved {_percent(accuracy['preserved_accuracy']):>7}"
            text += f"  deposited {_percent(accuracy['deposited_accuracy']):>7}"
            text += f"  average {_percent(accuracy['average_accuracy']):>7}"
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


def _show(as_json: bool, answer: Any, text: str | Table) -> None:
    if as_json:
        out.print_json(json.dumps(answer))
    else:
        out.print(text)


def _cell(value: object) -> str:
    """Text of users is not markup."""
    return "" if value is None else escape(str(value))


def _names(of: Deposit | Withdrawal | Purge) -> str:
    return escape(", ".join(of["classes"]))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def _fail(message: str) -> NoReturn:
    err.print(Text.assemble(("lirf: ", "bold red"), message), soft_wrap=True)
    raise typer.Exit(1)
