"""`lirf audit`: list, export, anchor and verify the events of the audit log."""

from pathlib import Path
from typing import Annotated

import typer

from app.audit import anchors
from app.audit.chain import Head
from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, State, Url
from app.cli.output import cell, fail, moment, plain, show, table
from lirf_client import AuditHead

commands = typer.Typer(help="Show the audit log, and check that it is unchanged.", no_args_is_help=True)

MAX_ANCHORS = 4_000  # in one verification

AuditModel = Annotated[str | None, typer.Option("--model", help="Only events of this model.")]
AuditAction = Annotated[str | None, typer.Option("--action", help="Only this action, such as deposit.finished.")]


@commands.command("list")
def list_audit(
    model: AuditModel = None,
    action: AuditAction = None,
    limit: Annotated[int, typer.Option(min=1, help="How many events, newest first.")] = 50,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """List events, newest first: who did what, when and why."""
    with connect(url, state) as lirf:
        events = list(lirf.audit_events(limit=limit, **_filters(model=model, action=action)))
    headers = "at (UTC)", "actor", "actor_id", "action", "model", "subject", "reason"
    rows = [(moment(event["at"]), *(cell(event[name]) for name in headers[1:])) for event in events]  # type: ignore[literal-required]
    show(as_json, events, table(headers, rows, ("subject", "actor_id", "model", "reason")))


@commands.command("export")
def export_audit(
    model: AuditModel = None,
    action: AuditAction = None,
    since: Annotated[str | None, typer.Option(help="Only from this time on, such as 2026-11-01T00:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Only before this time.")] = None,
    csv: Annotated[bool, typer.Option("--csv", metavar="", help="CSV with a header. Default: JSON lines.")] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
) -> None:
    """Print all events, oldest first, as JSON lines or CSV.

    Example: lirf audit export --csv --since 2026-11-01T00:00:00Z > audit.csv
    """
    filters = _filters(model=model, action=action, since=since, until=until)
    with connect(url, state) as lirf:
        for line in lirf.audit_export("csv" if csv else "jsonl", **filters):
            typer.echo(line)


@commands.command("anchor")
def anchor_audit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", dir_okay=False, help="A file where the service cannot write.")
    ],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Add the newest event's number and digest to a file.

    `lirf audit verify --anchor FILE` then also detects if the newest events were
    cut off or rewritten. Refuses if they were since the file's last anchor.
    """
    with connect(url, state) as lirf, anchors.locked(file) as anchor_file:
        newest = anchor_file.newest()
        head = lirf.audit_head(AuditHead(number=newest.number, digest=newest.digest) if newest else None)
        anchor_file.append(Head(**head))
    message = f"Anchored event {head['number']} in {plain(str(file))}. Keep the file where the service cannot write."
    show(as_json, head, message)


@commands.command("verify")
def verify_audit(
    anchor: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File that `lirf audit anchor` wrote before.")
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Check that no event was changed, removed, added or moved.

    Exit code 1 if one was.
    """
    heads = _anchors_in(anchor) if anchor else []
    with connect(url, state) as lirf:
        verification = lirf.verify_audit(anchors=heads[-MAX_ANCHORS:])
    faults = [(str(fault["number"]), cell(fault["what"])) for fault in verification["faults"]]
    message = f"All {verification['head']['number']} events are as they were written."
    if len(heads) > MAX_ANCHORS:
        message += f" The newest {MAX_ANCHORS} of the file's {len(heads)} anchors were compared."
    if verification["is_intact"] and anchor is None:
        message += (
            " Only an anchor can show whether the newest events were cut off. `lirf audit anchor FILE` writes one. "
            "Keep FILE outside the database and verify with `--anchor FILE`."
        )
    show(as_json, verification, message if verification["is_intact"] else table(("event", "fault"), faults))
    if verification["alarm"]:
        fail(f"The service has stopped anchoring the audit. {verification['alarm']}")
    if not verification["is_intact"]:
        raise typer.Exit(1)


def _anchors_in(file: Path) -> list[AuditHead]:
    return [AuditHead(number=head.number, digest=head.digest) for head in anchors.read(file)]


def _filters(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}
