"""`lirf up`, `serve`, `migrate` and `backup`: run the service, update its schema, copy its data."""

import socket
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DEFAULT_STATE, Json, LocalState
from app.cli.output import err, fail, out, plain, show
from app.cli.vault import local_vault

commands = typer.Typer()

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


def demand_free(host: str, port: int) -> None:
    """Fail at once if nothing can listen there; the server would say so only after it has started everything."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            fail(f"Nothing can listen at {host}, port {port}: {error.strerror}. Choose another --port or --host.")


@commands.command()
def up(
    state: Annotated[
        Path, typer.Option(envvar="LIRF_STATE_FOLDER", help="Folder for database, vault and keys; created if missing.")
    ] = DEFAULT_STATE,
    host: Host = "127.0.0.1",
    port: Port = 8000,
) -> None:
    """Run everything on this machine: API, worker and reconciler.

    Ctrl-C stops everything. Jobs that were running go on at the next start.
    """
    from app.base.settings import Settings

    demand_free(host, port)
    settings = Settings(state_folder=state)  # before the import, so that a wrong setting is refused at once
    err.print("Starting. This takes some seconds ...")
    from app.embedded import Embedded, locked

    try:
        with locked(settings.folder):
            service = Embedded(settings, host, port)
            key_file = service.prepare()
            service.run(lambda: _greet(f"http://{host}:{port}", settings.folder, key_file))
    except KeyboardInterrupt:  # uvicorn raises it again once everything has stopped
        out.print("Stopped. Jobs that were running go on at the next start.")


def _greet(url: str, folder: Path, key_file: Path | None) -> None:
    place = plain(folder)
    out.print(f"\n[bold green]LIRF is up[/bold green] at [bold]{url}[/bold] · state folder: {place}", soft_wrap=True)
    out.print(f"Console: {url}/console · API docs: {url}/docs", soft_wrap=True)
    if key_file and out.is_terminal:
        out.print(
            f"This administrator key is shown only now. It is stored in {plain(key_file)} (mode 0600):", soft_wrap=True
        )
        out.print(f"  [bold]{key_file.read_text().strip()}[/bold]", soft_wrap=True)
    elif key_file:  # a file or a journal that others may read
        out.print(f"The first administrator key is in {plain(key_file)} (mode 0600).", soft_wrap=True)
    out.print("Next: see [bold]lirf register --help[/bold] in a second terminal. Ctrl-C stops everything.\n")


@commands.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, help="API processes, each with its own cache of networks.")] = 1,
) -> None:
    """Run only the API. Workers and reconciler run separately.

    For installations on several machines. On one machine, use `lirf up`.
    """
    demand_free(host, port)
    from app import serving

    serving.serve(host, port, workers)


@commands.command()
def migrate() -> None:
    """Bring the database to the newest schema.

    The database is that of LIRF_DATABASE_URL. `lirf up` migrates by itself.
    """
    from app.base.database import Database
    from app.base.settings import Settings
    from migrations import upgrade

    upgrade(Database(Settings().database))
    out.print("The database is up to date.")


@commands.command()
def backup(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", file_okay=False, help="Where to copy to; a later run adds what is new.")
    ],
    state: LocalState = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Copy the database and the vault. The service may keep running.

    The master key is not copied. Keep it elsewhere: nobody can open the copy
    without it. Only SQLite is copied. If you use PostgreSQL, run pg_dump first.

    Example: lirf backup /backups/lirf
    """
    from app.vault import backup as backups

    with local_vault(state) as (settings, database, vault), err.status("copying ..."):
        total = backups.take(database, vault, folder)
    has_database = database.url.get_backend_name() == "sqlite"
    place, key = plain(str(folder)), plain(str(settings.master_key))
    if has_database:
        message = f"Copied the database and {total} objects to {place}."
    else:
        message = f"Copied {total} objects to {place}. The database must have been copied before, with pg_dump."
    answer = {"objects": total, "has_database": has_database}
    show(as_json, answer, f"{message} Keep {key} elsewhere: nobody can open the copy without it.")
