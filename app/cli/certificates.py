"""`lirf certificate`: get a signed certificate, and check one without the service."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import text_files
from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, DepositId, State, Url
from app.cli.output import err, fail, out, plain

commands = typer.Typer(no_args_is_help=True, help="Get and verify signed certificates of the evidence.")


@commands.command("get")
def get_certificate(
    deposit_id: DepositId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to save it: NAME.pdf or NAME.html.")],
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
) -> None:
    """Save the certificate of a deposit's newest evidence.

    Example: lirf certificate get DEPOSIT certificate.pdf
    """
    if file.suffix not in (".pdf", ".html"):
        raise typer.BadParameter(f"The file name '{file.name}' must end with .pdf or .html.")
    with connect(url, state) as lirf:
        finished = [one for one in lirf.evidence_of(deposit_id) if one["state"] == "finished"]
        if not finished:
            fail(f"This deposit has no finished evidence. Gather it with `lirf evidence {deposit_id} --again`.")
        file.write_bytes(lirf.certificate(finished[0]["id"], format=file.suffix[1:]))
        message = f"Saved the certificate of evidence {finished[0]['id']} to {plain(str(file))}."
        out.print(message, soft_wrap=True)


@commands.command("key")
def print_key(url: Url = DEFAULT_URL, state: State = DEFAULT_STATE) -> None:
    """Print the public key that verifies certificates, as PEM.

    Example: lirf certificate key > key.pem
    """
    with connect(url, state) as lirf:
        out.print(lirf.certificate_key(), end="", markup=False, highlight=False)


@commands.command("verify")
def verify_certificate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A certificate, PDF or HTML.")
    ],
    public_key: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The issuer's key as PEM. Default: ask the service for it."),
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
) -> None:
    """Check that a certificate is genuine and unchanged.

    Exit code 1 if it is not. With --public-key, no service is needed.

    Example: lirf certificate verify certificate.pdf --public-key key.pem
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from app.certificates.signatures import NotGenuine, key_id, verified

    if public_key:
        pem = text_files.read(public_key).encode()
    else:
        with connect(url, state) as lirf:
            pem = lirf.certificate_key().encode()
        err.print(f"Using the key of {plain(url)}. With --public-key you need not trust a service.", soft_wrap=True)
    source = public_key or url
    try:
        key = load_pem_public_key(pem)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        fail(f"{source} does not contain an Ed25519 public key. `lirf certificate key` prints the right one.")
    try:
        about = verified(file.read_bytes(), key)
    except NotGenuine as reason:
        fail(f"{file} is NOT genuine: {reason}")
    out.print(
        f"[green]{plain(str(file))} is genuine[/green]: key {key_id(key)} signed exactly this file.", soft_wrap=True
    )
    out.print(f"It certifies evidence {about.evidence} of deposit {about.deposit}.", soft_wrap=True)
