"""`lirf audit`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.audit import anchors
from app.audit.chain import Head
from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, State, Url
from app.cli.output import cell, fail, moment, show, table
from lirf_client import AuditHead

commands = typer.Typer(
    help="Who did what, when and why; and whether that is still what was written.", no_args_is_help=True
)


AnchorFile = Annotated[Path, typer.Argument(dir_okay=False, help="A file outside the service's own folders.")]


AuditModel = Annotated[str | None, typer.Option("--model", help="Only events of this model.")]


AuditAction = Annotated[str | None, typer.Option("--action", help="Only this action, such as deposit.finished.")]


@commands.command("list")
def list_audit(
    model: AuditModel = None,
    action: AuditAction = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 50,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """List audit events: who did what, when and why."""
    with connect(url, state) as lirf:
        found = list(lirf.audit_events(limit=limit, **_given(model=model, action=action)))
        headers = "at (UTC)", "actor", "action", "model", "subject", "reason"
        rows = [(moment(event["at"]), *(cell(event[name]) for name in headers[1:])) for event in found]  # type: ignore[literal-required]
        show(as_json, found, table(headers, rows, ("subject", "model", "reason")))


@commands.command("export")
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
    with connect(url, state) as lirf:
        for line in lirf.audit_export("csv" if csv else "jsonl", **filters):
            typer.echo(line)


@commands.command("anchor")
def anchor_audit(file: AnchorFile, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Add the newest event's number and digest to a file, for `lirf audit verify --anchor FILE`."""
    with connect(url, state) as lirf:
        head = lirf.audit_head()
    anchors.append(file, Head(**head))
    told = f"Event {head['number']} is anchored in {escape(str(file))}; keep it where the service cannot write."
    show(as_json, head, told)


@commands.command("verify")
def verify_audit(
    anchor: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="What `lirf audit anchor` wrote before.")
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Walk the chain of events and tell what was changed, removed, added or reordered; exit code 1 if anything was."""
    with connect(url, state) as lirf:
        found = lirf.verify_audit(_anchor_in(anchor) if anchor else None)
    faults = [(str(fault["number"]), fault["what"]) for fault in found["faults"]]
    told = f"All {found['head']['number']} events are as they were written."
    if found["is_intact"] and anchor is None:
        told += (
            " Whether the last ones were cut off, only an anchor tells: `lirf audit anchor FILE` writes down the "
            "newest event, for a place outside the database; verify with `--anchor FILE`."
        )
    show(as_json, found, told if found["is_intact"] else table(("event", "what is wrong"), faults))
    if not found["is_intact"]:
        raise typer.Exit(1)


def _anchor_in(file: Path) -> AuditHead:
    try:
        head = anchors.latest(file)
    except anchors.NoAnchor as error:
        fail(str(error))
    return AuditHead(number=head.number, digest=head.digest)


def _given(**filters: str | None) -> dict[str, str]:
    return {name: value for name, value in filters.items() if value is not None}
