"""Running the service, its schema and its backup: `lirf up`, `serve`, `migrate`, `backup`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.cli.options import DEFAULT_STATE, Json, State
from app.cli.output import err, fail, out, show
from app.cli.vault import vault_here

commands = typer.Typer()


@commands.command()
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


@commands.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer; each has a cache of its own.")] = 1,
) -> None:
    """Run the API alone, as one of many; workers and the reconciler are processes of their own."""
    from app import serving

    serving.serve(host, port, workers)


@commands.command()
def migrate() -> None:
    """Bring the database of LIRF_DATABASE_URL to the newest schema (`up` does so by itself)."""
    from app.base.database import Database
    from app.base.settings import Settings
    from migrations import upgrade

    upgrade(Database(Settings().database))
    out.print("The database is up to date.")


@commands.command()
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
