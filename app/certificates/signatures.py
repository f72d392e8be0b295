"""Sign a document inside itself, in a comment of its own format, so that one file can be handed on.

A certificate has two comment lines. `lirf-certificate: deposit DEPOSIT evidence EVIDENCE` names what it certifies.
`lirf-signature: ed25519 KEY SIGNATURE` follows. KEY: the first 16 hexadecimal digits of the SHA-256 of the
public key's 32 bytes. SIGNATURE: Ed25519 (RFC 8032) over all bytes of the file but this line, in hexadecimal. In HTML
the lines stand between `<!-- ` and ` -->` before `</html>`; in a PDF after `% ` before `startxref`, because PDF/A lets
nothing follow `%%EOF` (ISO 19005-2, 6.1.3).
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
    """The document was changed, is signed by another key, has no signature, or does not say what it certifies."""


@dataclass(frozen=True)
class About:
    """The ids of the deposit and the evidence that a certificate is about."""

    deposit: str
    evidence: str


def key_id(public: Ed25519PublicKey) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def signed(document: bytes, format: Format, about: About, private: Ed25519PrivateKey) -> bytes:
    """Return the document with the ids of what it certifies, and its signature.

    Raises ValueError if the document does not end as its format requires.
    """
    end = re.search(_ENDS[format], document)
    if end is None:
        raise ValueError(f"This is not a complete {format} document.")
    ids = _comment(format, f"lirf-certificate: deposit {about.deposit} evidence {about.evidence}")
    head = document[: end.start()] + ids
    signature = private.sign(head + end[0])
    return head + _comment(format, f"lirf-signature: ed25519 {key_id(private.public_key())} {signature.hex()}") + end[0]


def verified(file: bytes, public: Ed25519PublicKey) -> About:
    """Return what the certificate is about. Raises `NotGenuine` if a byte was changed or another key signed it."""
    format: Format = "pdf" if file.startswith(b"%PDF-") else "html"
    signed_line = re.search(_comment(format, _SIGNATURE) + b"(?=" + _ENDS[format] + b")", file)
    if not signed_line:
        raise NotGenuine("It has no signature. Ask whoever gave it to you for the file as it was issued.")
    key, signature = (group.decode() for group in signed_line.groups())
    if key != key_id(public):
        raise NotGenuine(f"It is signed by the key {key}, not by {key_id(public)}.")
    head = file[: signed_line.start()]
    try:
        public.verify(bytes.fromhex(signature), head + file[signed_line.end() :])
    except InvalidSignature:
        raise NotGenuine("It was changed after it was signed.") from None
    about = re.search(_comment(format, _ABOUT) + rb"\Z", head)
    if not about:
        raise NotGenuine("It does not say what it is of. Have it issued again.")
    return About(*(group.decode() for group in about.groups()))


def _comment(format: Format, text: str) -> bytes:
    begin, end = _COMMENTS[format]
    return f"{begin}{text}{end}".encode()
