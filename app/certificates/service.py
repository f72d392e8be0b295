"""Certificates of deposit: evidence on one page for readers without access, signed by the installation."""

import hashlib
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import typst
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jinja2 import Environment, FileSystemLoader
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import now
from app.base.errors import Problem
from app.certificates import contents, signatures
from app.certificates.signatures import About, Format
from app.certificates.tables import SigningKeyRow
from app.evidence import plots
from app.vault import service as vaults
from app.vault.service import Binding, Vault

SCALES = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a PDF's text; what does not fit on one page at the last goes on a second
TEMPLATES = Path(__file__).parent / "templates"


class FontMissing(Problem):
    """A name or the reason has characters that no font on the server has. Ask for the HTML."""

    status, slug, title = 409, "no-font", "No font for some characters of the PDF"


def issue(reading: Session, session: Session, vault: Vault, actor: Actor, evidence_id: str, format: Format) -> bytes:
    """Return a signed certificate of the present state, and record its digest in the audit.

    reading: a session that reads one snapshot. Raises `UnknownEvidence`, `NotExamined`, `EvidenceChanged` and
    `FontMissing`.
    """
    at = now()
    with reading.begin():
        certified = contents.of_evidence(reading, evidence_id, at)
    private = _private_key(session, vault, actor)
    data = {**certified.data, "key": signatures.key_id(private.public_key())}
    document = _html(data) if format == "html" else _pdf(data, [at.year, at.month, at.day])
    certificate = signatures.signed(document, format, About(certified.deposit_id, evidence_id), private)
    details = {
        "deposit": certified.deposit_id,
        "format": format,
        "key": data["key"],
        "digest": hashlib.sha256(certificate).hexdigest(),
    }
    with session.begin():
        audit.record(
            session, actor.name, "certificate.issued", model=certified.model_name, subject=evidence_id, details=details
        )
    return certificate


def public_key(session: Session, vault: Vault, actor: Actor) -> str:
    """The installation's public key as PEM (RFC 8410)."""
    public = _private_key(session, vault, actor).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _private_key(session: Session, vault: Vault, actor: Actor) -> Ed25519PrivateKey:
    """The installation's private key, made the first time that it is needed."""
    with session.begin():
        row = session.get(SigningKeyRow, 1)
        stored = vaults.stored_object(session, row.object_id) if row else None
    return Ed25519PrivateKey.from_private_bytes(vault.read(stored)) if stored else _new_key(session, vault, actor)


def _new_key(session: Session, vault: Vault, actor: Actor) -> Ed25519PrivateKey:
    private = Ed25519PrivateKey.generate()
    stored = vault.put(Binding("signing-key", "installation", "installation"), [private.private_bytes_raw()])
    try:
        with vault.discarded_on_error(stored), session.begin():
            object_id = vaults.record(session, stored)
            session.add(SigningKeyRow(number=1, object_id=object_id, created_at=now()))
            key = signatures.key_id(private.public_key())
            audit.record(session, actor.name, "signing_key.made", subject=key, details={"object": stored.name})
    except IntegrityError:  # another process made it first
        vault.remove([stored.name])
        return _private_key(session, vault, actor)
    return private


@cache
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader([TEMPLATES, plots.TEMPLATES]), autoescape=True)
    environment.globals["style"] = (TEMPLATES / "plots.css").read_text()
    return environment


def _html(data: dict[str, Any]) -> bytes:
    return _environment().get_template("certificate.html").render(data).encode()


def _pdf(data: dict[str, Any], date: list[int]) -> bytes:
    """All texts go in as data, so that none of them can act as Typst markup."""
    plot = _environment().get_template("plots.html").module
    style = f"<style>{_environment().globals['style']}</style>"

    def drawing(svg: Any) -> str:
        return str(svg).strip().replace(">", f">{style}", 1)

    pictures = {name: drawing(plot.picture(points, name)) for name, points in data["pictures"].items()}  # type: ignore[attr-defined]
    histograms = {
        name: drawing(plot.histogram(heights, "deposited", name))  # type: ignore[attr-defined]
        for name, heights in data["confidences"].items()
    }
    data = {**data, "pictures": list(pictures.items()), "confidences": list(histograms.items()), "date": date}
    source = (TEMPLATES / "certificate.typ").read_bytes()
    inputs = {"data": json.dumps(data, default=asdict)}
    for scale in SCALES:
        inputs["scale"] = str(scale)
        if isinstance(typst.compile(source, format="svg", sys_inputs=inputs), bytes):  # several pages give a list
            break
    try:
        pdf: bytes = typst.compile(source, format="pdf", sys_inputs=inputs, pdf_standards=["a-2a"])
    except typst.TypstError as error:
        if "could not be displayed" not in error.message:
            raise
        raise FontMissing(
            "The fonts of this service lack some characters of a name or the reason. Ask for the certificate as HTML "
            "(`?format=html`, or a file name that ends with .html), or install a font that has them where the API runs."
        ) from None
    return pdf
