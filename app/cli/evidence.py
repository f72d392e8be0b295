"""Evidence: shown, and gathered again."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, State, Url
from app.cli.output import err, fail, moment, out, show
from app.evidence import figures
from lirf_client import Client, Evidence

commands = typer.Typer()


@commands.command()
def evidence(
    deposit_id: Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of a finished deposit.")],
    again: Annotated[bool, typer.Option("--again", help="Gather it anew, of the model as it is now.")] = False,
    reference: Annotated[
        str | None, typer.Option(help="With --again: a model that never saw the classes, to compare with.")
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Show what is left of the deposited classes: answers, and attacks beyond them."""
    if reference and not again:
        raise typer.BadParameter("a reference is compared with when evidence is gathered: give --again, too.")
    with connect(url, state) as lirf:
        if again:
            evidence_id = lirf.request_evidence(deposit_id, reference=reference)["id"]
        else:
            known = lirf.evidence_of(deposit_id)
            if not known:
                fail("no evidence of this deposit was gathered yet; `--again` does it.")
            unfinished = [one for one in known if one["state"] in ("queued", "running")]
            finished = [one for one in known if one["state"] == "finished"]
            evidence_id = (unfinished or finished or known)[0]["id"]
        found = _followed(lirf, evidence_id)
        if found["found"] is None:
            fail(f"evidence {found['id']} {found['state']}: {found['failure'] or 'ask for it anew with --again.'}")
        if as_json:
            show(True, found, "")
        else:
            _show(found, found["found"])


def _followed(lirf: Client, evidence_id: str) -> Evidence:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("waits for a worker", total=None)
        for found in lirf.follow_evidence(evidence_id):
            told = found["progress"]
            if told["part"] and told["number"]:
                progress.update(bar, description=told["part"], total=told["parts"], completed=told["number"] - 1)
    return found


def _show(evidence: Evidence, found: dict[str, Any]) -> None:
    out.print(
        f"Evidence [bold]{evidence['id']}[/bold] of {evidence['model']}, revision {evidence['revision']}, "
        f"{moment(evidence['finished_at'] or '')} UTC: {found['images']['held_out']} held-out images; an attacker has "
        f"{found['images']['attackers']} with labels and is asked about {found['images']['asked']} others.\n"
    )
    for line in measures(found):
        out.print(line)
    out.print(f"\n{figures.RULES}")
    if still := figures.still_known(found):
        out.print(f"\n[bold yellow]{escape(still)} {figures.ADVICE}[/bold yellow]")
    out.print(f"\nTo be looked at, in the console or the certificate: {found['good']['embedding']}")
    for part, reason in found["missing"].items():
        out.print(f"Note on {part}: {escape(reason)}")


def measures(found: dict[str, Any]) -> Iterator[RenderableType]:
    """Each measure with its verdict, its values by network, and what is good, for a terminal of any width."""
    told = figures.rows(found)
    for number, row in enumerate(told):
        style = {figures.Verdict.MET: "green", figures.Verdict.NOT_MET: "bold red"}.get(row.verdict, "yellow")  # type: ignore[arg-type]
        verdict = f": [{style}]{row.verdict}[/{style}]" if row.verdict else ""
        yield f"[bold]{row.measure}[/bold]{verdict}"
        yield Padding(
            " · ".join(f"{name} {value}" for name, value in row.values.items()) or "not measured", (0, 0, 0, 4)
        )
        if number + 1 == len(told) or told[number + 1].good != row.good:  # which several measures share
            yield Padding(f"[dim]good: {row.good}[/dim]", (0, 0, 0, 4))
