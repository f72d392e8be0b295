"""`lirf keys`."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, State, Url
from app.cli.output import cell, moment, show, table

commands = typer.Typer(help="API keys (administrators).", no_args_is_help=True)


@commands.command("create")
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
        show(as_json, {"key": key}, key)
        return
    with connect(url, state) as lirf:
        found = lirf.create_key(name, role or [], expires_in_seconds=None if days is None else days * 86400)
        show(as_json, found, found["key"])


def _create_local_key(name: str, roles: list[str], days: float | None, state: Path) -> str:
    from app.access import service as access
    from app.base.database import Database, now
    from app.base.settings import Settings

    if unknown := set(roles) - set(access.Role):
        raise typer.BadParameter(f"'{unknown.pop()}' is no role; there are {', '.join(access.Role)}.")
    ends = None if days is None else now() + timedelta(days=days)
    with Database(Settings(state_folder=state).database).session() as session:
        return access.create_key(session, access.LOCAL_ADMINISTRATOR, name, list(map(access.Role, roles)), ends)[1]


@commands.command("list")
def list_keys(url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List the API keys, without their secrets."""
    with connect(url, state) as lirf:
        found = lirf.keys()
        headers = "id", "name", "prefix", "roles", "made", "used", "ends", "revoked"
        rows = [
            (
                *map(cell, (key["id"], key["name"], key["prefix"], ", ".join(key["roles"]))),
                *(moment(key[at] or "") for at in ("created_at", "last_used_at", "expires_at", "revoked_at")),
            )
            for key in found
        ]
        show(as_json, found, table(headers, rows, ("made", "prefix", "used", "ends")))


@commands.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, from `lirf keys list`.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Refuse a key from now on."""
    with connect(url, state) as lirf:
        lirf.revoke_key(key_id)
        show(as_json, {"revoked": key_id}, f"Key {key_id} is refused from now on.")
