"""`lirf vault`: maintain the vault directly, without HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from app.cli.options import DEFAULT_STATE, Json, LocalState, Yes
from app.cli.output import cell, err, fail, show, table

commands = typer.Typer(help="Check and clean the vault, rotate its master key.", no_args_is_help=True)


@contextmanager
def local_vault(state: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Yield settings, database and vault of the service on this machine, which may be running."""
    from app.base.database import Database
    from app.base.settings import Settings
    from app.vault.service import open_vault

    settings = Settings(state_folder=state)
    if not settings.master_key.exists():
        fail(f"There is no vault in '{state}'. Give --state, or the LIRF_... settings of the service.")
    database = Database(settings.database)
    try:
        yield settings, database, open_vault(settings)
    finally:
        database.engine.dispose()


@commands.command("check")
def check_vault(state: LocalState = DEFAULT_STATE, as_json: Json = False) -> None:
    """Open every stored object, and find objects nobody needs.

    Changes nothing. Exit code 1 if an object is lost.
    """
    from app.vault import maintenance

    with local_vault(state) as (_, database, vault), err.status("opening every object ..."):
        findings = maintenance.check(database, vault)
    rows = [(finding.object_name[:16], cell(finding.what), "yes" if finding.is_loss else "no") for finding in findings]
    show(
        as_json,
        [vars(finding) for finding in findings],
        table(("object", "finding", "lost"), rows)
        if findings
        else "All objects can be opened, and none is superfluous.",
    )
    if any(finding.is_loss for finding in findings):
        raise typer.Exit(1)


@commands.command("gc")
def clear_vault(state: LocalState = DEFAULT_STATE, as_json: Json = False) -> None:
    """Remove objects that can no longer be opened.

    These are shredded objects, and leftovers of interrupted jobs that are older
    than a day.
    """
    from app.vault import maintenance

    with local_vault(state) as (settings, database, vault):
        removed = maintenance.gc(database, vault, maintenance.grace_for(settings))
    show(as_json, removed, f"Removed {len(removed)} objects.")


@commands.command("rotate-key")
def rotate_key(state: LocalState = DEFAULT_STATE, as_json: Json = False) -> None:
    """Create a new master key and wrap every data key with it.

    The service may keep running. Objects are not rewritten.
    """
    from app.vault import maintenance
    from app.vault.keys import FileMasterKeys

    with local_vault(state) as (settings, database, _), err.status("wrapping data keys ..."):
        keys = FileMasterKeys(settings.master_key)
        total = maintenance.rotate_key(database, keys)
    message = (
        f"Master key {keys.version} now wraps {total} data keys. Back up the key file. It contains the older keys "
        "until you run `lirf vault drop-old-keys`."
    )
    show(as_json, {"version": keys.version, "data_keys": total}, message)


@commands.command("drop-old-keys")
def drop_old_keys(confirmed: Yes = False, state: LocalState = DEFAULT_STATE, as_json: Json = False) -> None:
    """Destroy all master keys except the newest.

    Possible from a day after the last rotation. Database backups from before it
    can then no longer be opened.
    """
    from app.vault import maintenance
    from app.vault.keys import FileMasterKeys

    with local_vault(state) as (settings, database, _):
        keys = FileMasterKeys(settings.master_key)
        if keys.old_versions() and not confirmed:
            err.print("Database backups from before the last rotation can no longer be restored with this key file.")
            typer.confirm("Continue?", abort=True, err=True)
        try:
            dropped = maintenance.drop_old_keys(database, keys, maintenance.grace_for(settings))
        except maintenance.OldKeysNeeded as error:
            fail(str(error))
    message = (
        f"Destroyed {len(dropped)} old master keys; key {keys.version} is left. "
        "Destroy older copies of the key file too."
    )
    show(
        as_json, {"version": keys.version, "dropped": dropped}, message if dropped else "There are no old master keys."
    )
