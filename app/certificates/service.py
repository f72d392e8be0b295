"""Certificates of deposit: evidence as one page for who is not at the service, signed by the installation."""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import typst
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jinja2 import Environment, FileSystemLoader
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.certificates import contents, signatures
from app.certificates.signatures import Format
from app.certificates.tables import SigningKeyRow
from app.database import now
from app.evidence import plots
from app.vault import service as vaults
from app.vault.service import Binding, Vault

TEMPLATES = Path(__file__).parent / "templates"


def issue(session: Session, vault: Vault, evidence_id: str, format: Format) -> bytes:
    """A signed certificate, as it is now. Raises `UnknownEvidence`, `NotExamined`, `EvidenceChanged`."""
    private = _private_key(session, vault)
    at = now()
    with session.begin():
        told = contents.of_evidence(session, evidence_id, at)
    told["key"] = signatures.key_id(private.public_key())
    document = _html(told) if format == "html" else _pdf(told, [at.year, at.month, at.day])
    return signatures.signed(document, format, private)


def public_key(session: Session, vault: Vault) -> str:
    """The installation's, as PEM (RFC 8410)."""
    _private_key(session, vault)
    with session.begin():
        row = session.get_one(SigningKeyRow, 1)
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(row.public_key))
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _private_key(session: Session, vault: Vault) -> Ed25519PrivateKey:
    """Made when it is needed first."""
    with session.begin():
        row = session.get(SigningKeyRow, 1)
        stored = vaults.stored(session, row.object_id) if row else None
    return Ed25519PrivateKey.from_private_bytes(vault.read(stored)) if stored else _made(session, vault)


def _made(session: Session, vault: Vault) -> Ed25519PrivateKey:
    private = Ed25519PrivateKey.generate()
    stored = vault.put(Binding("signing-key", "installation", "installation"), [private.private_bytes_raw()])
    try:
        with vault.discarded_on_error(stored), session.begin():
            object_id = vaults.record(session, stored)
            public = private.public_key().public_bytes_raw().hex()
            session.add(SigningKeyRow(number=1, public_key=public, object_id=object_id, created_at=now()))
    except IntegrityError:  # somebody else made it
        vault.remove([stored.name])
        return _private_key(session, vault)
    return private


@cache
def _environment() -> Environment:
    found = Environment(loader=FileSystemLoader([TEMPLATES, plots.TEMPLATES]), autoescape=True)
    found.globals["style"] = (TEMPLATES / "plots.css").read_text()
    return found


def _html(told: dict[str, Any]) -> bytes:
    return _environment().get_template("certificate.html").render(told).encode()


def _pdf(told: dict[str, Any], date: list[int]) -> bytes:
    """What is told goes in as data: nothing of it is Typst's markup."""
    drawn = _environment().get_template("plots.html").module
    style = f"<style>{_environment().globals['style']}</style>"

    def drawing(svg: Any) -> str:
        return str(svg).strip().replace(">", f">{style}", 1)

    pictures = {name: drawing(drawn.picture(points, name)) for name, points in told["pictures"].items()}  # type: ignore[attr-defined]
    histograms = {
        name: drawing(drawn.histogram(heights, "deposited", name))  # type: ignore[attr-defined]
        for name, heights in told["confidences"].items()
    }
    data = {**told, "pictures": list(pictures.items()), "confidences": list(histograms.items()), "date": date}
    source = (TEMPLATES / "certificate.typ").read_bytes()
    pdf: bytes = typst.compile(source, format="pdf", sys_inputs={"data": json.dumps(data, default=asdict)})
    return pdf
