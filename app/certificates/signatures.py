"""A document with its signature at its end, in a comment of its own format: one file to hand on.

Of a PDF the last two lines are `% lirf-certificate: deposit DEPOSIT evidence EVIDENCE`, with the ids of what it is of,
and `% lirf-signature: ed25519 KEY SIGNATURE`; of HTML they stand between `<!-- ` and ` -->`. KEY: the first 16
hexadecimal digits of the SHA-256 of the public key's 32 bytes. SIGNATURE: Ed25519 (RFC 8032) of all bytes before the
line feed in front of its line, in hexadecimal.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Format = Literal["pdf", "html"]
_ABOUT = re.compile(rb"\n(?:% |<!-- )lirf-certificate: deposit ([0-9a-f-]{36}) evidence ([0-9a-f-]{36})(?: -->)?\Z")
_LINE = re.compile(rb"\n(?:% |<!-- )lirf-signature: ed25519 ([0-9a-f]{16}) ([0-9a-f]{128})(?: -->)?\n\Z")


class NotGenuine(ValueError):
    """The document was changed, is signed by another key, or bears no signature."""


@dataclass(frozen=True)
class About:
    """The ids of what a certificate is of."""

    deposit: str
    evidence: str


def key_id(public: Ed25519PublicKey) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def signed(document: bytes, format: Format, about: About, private: Ed25519PrivateKey) -> bytes:
    """The document with what it is of, and its signature."""
    whole = document + _comment(format, f"lirf-certificate: deposit {about.deposit} evidence {about.evidence}")
    return whole + _line(format, key_id(private.public_key()), private.sign(whole))


def verified(file: bytes, public: Ed25519PublicKey) -> About:
    """What it is of. Raises `NotGenuine` where a byte of the file is another one, or its signature is another key's."""
    found = _LINE.search(file)
    if not found:
        raise NotGenuine("it bears no signature; ask who gave it to you for the file as it was issued.")
    document, signature = file[: found.start()], bytes.fromhex(found[2].decode())
    format: Format = "pdf" if document.startswith(b"%PDF-") else "html"
    if found[1].decode() != key_id(public):
        raise NotGenuine(f"it is signed by the key {found[1].decode()}, not by {key_id(public)}.")
    if found[0] != _line(format, key_id(public), signature):
        raise NotGenuine("the line of its signature was changed.")
    try:
        public.verify(signature, document)
    except InvalidSignature:
        raise NotGenuine("it was changed after it was signed.") from None
    about = _ABOUT.search(document)
    if not about:
        raise NotGenuine("an earlier version signed it, which did not say what it is of; have it issued again.")
    return About(about[1].decode(), about[2].decode())


def _line(format: Format, key: str, signature: bytes) -> bytes:
    return _comment(format, f"lirf-signature: ed25519 {key} {signature.hex()}") + b"\n"


def _comment(format: Format, told: str) -> bytes:
    return (f"\n% {told}" if format == "pdf" else f"\n<!-- {told} -->").encode()
