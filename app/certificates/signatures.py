"""A document with its signature in a comment of its own format: one file to hand on.

A certificate has two such lines. `lirf-certificate: deposit DEPOSIT evidence EVIDENCE` has the ids of what it is of.
`lirf-signature: ed25519 KEY SIGNATURE` comes after it. KEY: the first 16 hexadecimal digits of the SHA-256 of the
public key's 32 bytes. SIGNATURE: Ed25519 (RFC 8032) of all bytes of the file but this line, in hexadecimal. In HTML
they stand between `<!-- ` and ` -->` before `</html>`; in a PDF after `% ` before `startxref`, since PDF/A lets nothing
follow `%%EOF` (ISO 19005-2, 6.1.3).
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Format = Literal["pdf", "html"]
_COMMENTS: dict[Format, tuple[str, str]] = {"pdf": ("\n% ", ""), "html": ("\n<!-- ", " -->")}
_ENDS: dict[Format, bytes] = {"pdf": rb"\nstartxref\n\d+\n%%EOF\Z", "html": rb"\n</html>\Z"}
_ABOUT = r"lirf-certificate: deposit ([0-9a-f-]{36}) evidence ([0-9a-f-]{36})"
_SIGNATURE = r"lirf-signature: ed25519 ([0-9a-f]{16}) ([0-9a-f]{128})"


class NotGenuine(ValueError):
    """The document was changed, is signed by another key, bears no signature, or does not say what it is of."""


@dataclass(frozen=True)
class About:
    """The ids of what a certificate is of."""

    deposit: str
    evidence: str


def key_id(public: Ed25519PublicKey) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def signed(document: bytes, format: Format, about: About, private: Ed25519PrivateKey) -> bytes:
    """The document with what it is of, and its signature.

    Raises ValueError where it does not end as its format does.
    """
    end = re.search(_ENDS[format], document)
    if end is None:
        raise ValueError(f"no {format} ends so")
    said = _comment(format, f"lirf-certificate: deposit {about.deposit} evidence {about.evidence}")
    head = document[: end.start()] + said
    signature = private.sign(head + end[0])
    return head + _comment(format, f"lirf-signature: ed25519 {key_id(private.public_key())} {signature.hex()}") + end[0]


def verified(file: bytes, public: Ed25519PublicKey) -> About:
    """What it is of. Raises `NotGenuine` where a byte of the file is another one, or its signature is another key's."""
    format: Format = "pdf" if file.startswith(b"%PDF-") else "html"
    found = re.search(_comment(format, _SIGNATURE) + b"(?=" + _ENDS[format] + b")", file)
    if not found:
        raise NotGenuine("it bears no signature; ask who gave it to you for the file as it was issued.")
    key, signature = (one.decode() for one in found.groups())
    if key != key_id(public):
        raise NotGenuine(f"it is signed by the key {key}, not by {key_id(public)}.")
    head = file[: found.start()]
    try:
        public.verify(bytes.fromhex(signature), head + file[found.end() :])
    except InvalidSignature:
        raise NotGenuine("it was changed after it was signed.") from None
    about = re.search(_comment(format, _ABOUT) + rb"\Z", head)
    if not about:
        raise NotGenuine("it does not say what it is of; have it issued again.")
    return About(*(one.decode() for one in about.groups()))


def _comment(format: Format, told: str) -> bytes:
    begin, end = _COMMENTS[format]
    return f"{begin}{told}{end}".encode()
