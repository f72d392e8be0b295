"""Certificates of deposit: fetched, and checked where there is no service."""

from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from rich.markup import escape

from app.certificates.signatures import NotGenuine, key_id, verified
from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, State, Url
from app.cli.output import err, fail, out

commands = typer.Typer(no_args_is_help=True, help="Certificates of deposit: evidence on a signed page.")


@commands.command("get")
def get(
    deposit_id: Annotated[str, typer.Argument(metavar="DEPOSIT", help="Id of a deposit that was examined.")],
    file: Annotated[Path, typer.Argument(help="Where to: NAME.pdf or NAME.html.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
) -> None:
    """Write the certificate of a deposit's newest evidence to a file."""
    if file.suffix not in (".pdf", ".html"):
        raise typer.BadParameter(f"'{file.name}' ends neither with .pdf nor with .html.")
    with connect(url, state) as lirf:
        finished = [one for one in lirf.evidence_of(deposit_id) if one["state"] == "finished"]
        if not finished:
            fail(f"there is no finished evidence of this deposit; `lirf evidence {deposit_id} --again` gathers it.")
        file.write_bytes(lirf.certificate(finished[0]["id"], format=file.suffix[1:]))
        out.print(f"{escape(str(file))}: certificate of evidence {finished[0]['id']}.", soft_wrap=True)


@commands.command("key")
def key(url: Url = DEFAULT_URL, state: State = DEFAULT_STATE) -> None:
    """Print the public key that certificates are signed by, as PEM."""
    with connect(url, state) as lirf:
        out.print(lirf.certificate_key(), end="", markup=False, highlight=False)


@commands.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A certificate, PDF or HTML.")],
    public_key: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The issuer's key as PEM; without it the service is asked."),
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
) -> None:
    """Check that a certificate is as it was issued, to the byte; exit code 1 where it is not."""
    if public_key:
        pem = public_key.read_bytes()
    else:
        with connect(url, state) as lirf:
            pem = lirf.certificate_key().encode()
        err.print(f"With the key of {url}; with --public-key no service has to be trusted.", soft_wrap=True)
    source = public_key or url
    try:
        found = load_pem_public_key(pem)
    except ValueError:
        found = None
    if not isinstance(found, Ed25519PublicKey):
        fail(f"{source} holds no Ed25519 public key; `lirf certificate key` prints the one that is wanted.")
    try:
        about = verified(file.read_bytes(), found)
    except NotGenuine as reason:
        fail(f"{file} is NOT genuine: {reason}")
    out.print(f"[green]{escape(str(file))} is genuine[/green]: as the key {key_id(found)} signed it.", soft_wrap=True)
    out.print(f"It certifies evidence {about.evidence} of deposit {about.deposit}.", soft_wrap=True)
