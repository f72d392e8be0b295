"""`lirf vault`: beside the service, not over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from app.cli.options import DEFAULT_STATE, Json, State
from app.cli.output import err, fail, show

commands = typer.Typer(help="The vault of a service on this machine.", no_args_is_help=True)


@contextmanager
def vault_here(state: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Settings, database and vault of the service here: these commands work beside it, not over HTTP."""
    from app.base.database import Database
    from app.base.settings import Settings
    from app.vault.service import open_vault

    settings = Settings(state_folder=state)
    if not settings.master_key.exists():
        fail(f"there is no vault in '{state}'; give --state, or the LIRF_... settings of the service.")
    database = Database(settings.database)
    try:
        yield settings, database, open_vault(settings)
    finally:
        database.engine.dispose()


@commands.command("check")
def check_vault(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Open every stored object and look for what does not belong there; exit code 1 if anything is lost."""
    from app.vault import maintenance

    with vault_here(state) as (_, database, opened), err.status("opening every object ..."):
        findings = maintenance.check(database, opened)
    table = Table("object", "what", "lost")
    for finding in findings:
        table.add_row(finding.object_name[:16], finding.what, "yes" if finding.is_loss else "no")
    show(
        as_json,
        [vars(finding) for finding in findings],
        table if findings else "Every object opens, none is without a row.",
    )
    if any(finding.is_loss for finding in findings):
        raise typer.Exit(1)


@commands.command("gc")
def clear_vault(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Remove bytes that no row can open: of shredded objects, and of interrupted work that is older than a day."""
    from app.vault import maintenance

    with vault_here(state) as (settings, database, opened):
        removed = maintenance.gc(database, opened, maintenance.grace_for(settings))
    show(as_json, removed, f"{len(removed)} objects removed.")


@commands.command("rotate-key")
def rotate_key(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Make a new master key and wrap every data key with it; objects are not rewritten, the service goes on."""
    from app.vault import maintenance
    from app.vault.keys import FileMasterKeys

    with vault_here(state) as (settings, database, _), err.status("wrapping data keys ..."):
        keys = FileMasterKeys(settings.master_key)
        total = maintenance.rotate_key(database, keys)
    told = (
        f"Master key {keys.version} wraps {total} data keys now. Back the key file up; older keys stay in it until "
        "`lirf vault drop-old-keys`."
    )
    show(as_json, {"version": keys.version, "data_keys": total}, told)


@commands.command("drop-old-keys")
def drop_old_keys(
    confirmed: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Destroy all master keys but the newest, a day after its rotation: older backups then open nothing any more."""
    from app.vault import maintenance
    from app.vault.keys import FileMasterKeys

    with vault_here(state) as (settings, database, _):
        keys = FileMasterKeys(settings.master_key)
        if keys.old_versions() and not confirmed:
            err.print(
                "Backups of the database from before the last rotation cannot be brought back with this key file."
            )
            typer.confirm("Go on?", abort=True, err=True)
        try:
            dropped = maintenance.drop_old_keys(database, keys, maintenance.grace_for(settings))
        except maintenance.OldKeysNeeded as error:
            fail(str(error))
    told = (
        f"{len(dropped)} old master keys are gone; {keys.version} is left. Destroy older copies of the key file, too."
    )
    show(as_json, {"version": keys.version, "dropped": dropped}, told if dropped else "There is no old master key.")
