"""`lirf keys`: API keys."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, State, Url, demand_finite
from app.cli.output import cell, fail, moment, show, table

commands = typer.Typer(help="Create, list and revoke API keys (administrators only).", no_args_is_help=True)


@commands.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will use the key; recorded in the audit log.")],
    role: Annotated[
        list[str] | None,
        typer.Option(help="operator, custodian, auditor or administrator. Repeat it for several roles."),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(
            min=0, max=3650, callback=demand_finite, help="Days until it expires. Default: valid until revoked."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Bind it to this model, or to a pattern such as 'eu-*'. Repeat it for several. Default: all."
        ),
    ] = None,
    local: Annotated[
        bool,
        typer.Option(
            metavar="", help="Write to the database, without a service: for the first key, and for a second person's."
        ),
    ] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Create an API key. It is shown only once.

    Roles: operator (register, deposit), custodian (withdraw, revoke, restore),
    auditor (audit log, new evidence), administrator (everything).
    A key without a role can read models and ask them for predictions.

    A key bound to models sees and does nothing elsewhere.

    If an act needs two people, a key counts as the same person as the key that
    created it. With --local, on the server, it counts as a person of its own.

    Example: lirf keys create alice --role custodian --days 90 --model 'eu-*'
    """
    seconds = None if days is None else days * 86400
    if local:
        key = _create_local_key(name, role or [], seconds, model, state)
        show(as_json, {"key": key}, key)
        return
    with connect(url, state) as lirf:
        created = lirf.create_key(name, role or [], expires_in_seconds=seconds, models=model)
        show(as_json, created, created["key"])


def _create_local_key(name: str, roles: list[str], seconds: float | None, models: list[str] | None, state: Path) -> str:
    from pydantic import ValidationError

    from app.access import service as access
    from app.access.schemas import KeyCreate
    from app.base.database import Database
    from app.base.errors import Problem
    from app.base.settings import Settings

    if unknown := set(roles) - set(access.Role):
        raise typer.BadParameter(f"'{unknown.pop()}' is not a role. The roles are {', '.join(access.Role)}.")
    values = {"name": name, "roles": roles, "models": models, "expires_in_seconds": seconds}
    try:
        body = KeyCreate.model_validate(values)
        with Database(Settings(state_folder=state).database).session() as session:
            created = access.create_key(
                session, access.LOCAL_ADMINISTRATOR, body.name, body.roles, body.end(), body.models
            )
    except ValidationError as error:
        faults = (f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors(include_url=False))
        raise typer.BadParameter("; ".join(faults)) from None
    except Problem as problem:
        fail(problem.detail)
    return created[1]


@commands.command("list")
def list_keys(url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List the API keys, without their secrets."""
    with connect(url, state) as lirf:
        keys = lirf.keys()
    headers = "id", "name", "prefix", "roles", "models", "person", "created", "last used", "expires", "revoked"
    rows = [
        (
            *map(cell, (key["id"], key["name"], key["prefix"], ", ".join(key["roles"]))),
            cell(", ".join(key["models"] or ["all"])),
            cell("itself" if key["person_id"] == key["id"] else key["person_id"]),
            *(moment(key[at] or "") for at in ("created_at", "last_used_at", "expires_at", "revoked_at")),
        )
        for key in keys
    ]
    show(as_json, keys, table(headers, rows, ("created", "prefix", "last used", "person", "expires")))


@commands.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, from `lirf keys list`.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Revoke a key: from now on the service refuses it."""
    with connect(url, state) as lirf:
        lirf.revoke_key(key_id)
        show(as_json, {"revoked": key_id}, f"Key {key_id} is revoked.")
