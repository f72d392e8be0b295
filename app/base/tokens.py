"""Secrets that are told once and kept as digests: of API keys and of held withdrawals."""

import hashlib
import hmac
import secrets


def new() -> str:
    """256 random bits, as text that fits into a header."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """SHA-256, in hexadecimal: of so many random bits no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_right(secret: str, known: str | None) -> bool:
    """Whether the secret has this digest, in the same time whatever it is; of None, none has it."""
    return hmac.compare_digest(known or digest(""), digest(secret)) and known is not None
