"""`lirf evidence`: show what a model still knows of deposited classes, or measure it again."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.padding import Padding

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, DepositId, Json, State, Url
from app.cli.output import err, fail, moment, out, plain, say, show
from app.cli.uploads import packed, upload
from app.evidence import claims, figures
from lirf_client import LirfError

if TYPE_CHECKING:
    from lirf_client import Client, Evidence

commands = typer.Typer()


@commands.command("evidence")
def show_evidence(
    deposit_id: DepositId,
    again: Annotated[
        bool, typer.Option("--again", metavar="", help="Gather new evidence, of the model as it is now.")
    ] = False,
    reference: Annotated[
        str | None, typer.Option(help="With --again: a model that never saw the classes, to compare with.")
    ] = None,
    reference_images: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="A folder or zip of training images of preserved classes: the service trains a network on them, from "
            "scratch, and compares with it. Gathers new evidence.",
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", metavar="", help="With --again: attackers with up to 100 images; takes much longer."),
    ] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Show what a model still knows of deposited classes.

    A worker measures and attacks the model. If that is not done yet, the command
    waits for it.
    """
    if reference and reference_images:
        raise typer.BadParameter("Give --reference or --reference-images, not both.")
    if reference and not again:
        raise typer.BadParameter("--reference needs --again: only new evidence can be compared with another model.")
    if full and not (again or reference_images):
        raise typer.BadParameter("--full needs --again: it makes new evidence.")
    attackers = "full" if full else "small"
    with connect(url, state) as lirf:
        if reference_images:
            evidence_id = _with_images(lirf, deposit_id, reference_images, attackers)
        elif again:
            evidence_id = lirf.request_evidence(deposit_id, reference=reference, attackers=attackers)["id"]
        else:
            evidence_id = _newest(lirf, deposit_id)
        evidence = _follow(lirf, evidence_id)
        if evidence["found"] is None:
            reason = evidence["failure"] or "gather new evidence with --again."
            fail(f"Evidence {evidence['id']} {evidence['state']}: {reason}")
        if as_json:
            show(True, evidence, "")
        else:
            _print(evidence, evidence["found"])


def _with_images(lirf: "Client", deposit_id: str, images: Path, attackers: str) -> str:
    """Upload the images of a reference and request evidence with them. Returns its id."""
    model = lirf.deposit(deposit_id)["model"]
    with packed(images) as archive:
        dataset = upload(lirf, model, archive, "reference")
    try:
        return lirf.request_evidence(deposit_id, train_reference_on=dataset["id"], attackers=attackers)["id"]
    except LirfError:
        lirf.discard_dataset(model, dataset["id"])
        raise


def _newest(lirf: "Client", deposit_id: str) -> str:
    """Return the id of the evidence to show: one in progress, else the newest that finished, else the newest."""
    examinations = lirf.evidence_of(deposit_id)
    if not examinations:
        fail(f"There is no evidence of this deposit yet. Gather it with `lirf evidence {deposit_id} --again`.")
    unfinished = [one for one in examinations if one["state"] in ("queued", "running")]
    finished = [one for one in examinations if one["state"] == "finished"]
    return (unfinished or finished or examinations)[0]["id"]


def _follow(lirf: "Client", evidence_id: str) -> "Evidence":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("waiting for a worker", total=None)
        for evidence in lirf.follow_evidence(evidence_id):
            progress = evidence["progress"]
            if progress["part"] == "reference":
                bar.update(task, description="reference", total=progress["steps"], completed=progress["step"])
            elif progress["part"] and progress["number"]:
                completed = progress["number"] - 1
                description = ": ".join(one for one in (progress["part"], progress["piece"]) if one)
                bar.update(task, description=description, total=progress["parts"], completed=completed)
    return evidence


def _print(evidence: "Evidence", found: dict[str, Any]) -> None:
    """found: the figures, as in `evidence["found"]`."""
    say(
        f"Evidence [bold]{evidence['id']}[/bold] of {evidence['model']}, revision {evidence['revision']}, "
        f"{moment(evidence['finished_at'] or '')} UTC. {figures.guide(found)}\n"
    )
    for line in measures(found):
        say(line)
    out.print()
    for verdict, explanation in figures.explanations(figures.rows(found)).items():
        say(f"[bold]{verdict}[/bold]: {explanation}")
    say(f"\n{figures.RULES}")
    say("\n[bold]What may be claimed[/bold]")
    for claim in claims.claims(found):
        say(Padding(f"{claim.statement} [{_style(claim.verdict)}]{claim.verdict or 'not measured'}[/]", (0, 0, 0, 4)))
    for warning in figures.warnings(found):
        say(f"\n[bold yellow]{plain(warning)}[/bold yellow]")
    if figures.still_known(found):
        say(figures.ADVICE)
    say(f"\nThe console and the certificate show a picture of the features. Good: {found['good']['embedding']}")
    for part, reason in found["missing"].items():
        say(f"Note on {part}: {plain(reason)}")


def measures(found: dict[str, Any]) -> Iterator[RenderableType]:
    """Yield each measure with its verdict, its value for each network and what is good, for any width."""
    rows = figures.rows(found)
    for number, row in enumerate(rows):
        verdict = f": [{_style(row.verdict)}]{row.verdict}[/]" if row.verdict else ""
        yield f"[bold]{row.measure}[/bold]{verdict}"
        yield Padding(
            " · ".join(f"{name} {value}" for name, value in row.values.items()) or "not measured", (0, 0, 0, 4)
        )
        if row.detail:
            yield Padding(f"[dim]{row.detail}[/dim]", (0, 0, 0, 4))
        if number + 1 == len(rows) or rows[number + 1].good != row.good:  # several measures may share it
            yield Padding(f"[dim]Good: {row.good}[/dim]", (0, 0, 0, 4))


def _style(verdict: figures.Verdict | None) -> str:
    return {figures.Verdict.MET: "green", figures.Verdict.NOT_MET: "bold red"}.get(verdict, "yellow")  # type: ignore[arg-type]
