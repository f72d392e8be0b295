"""Secrets of API keys and held withdrawals. A secret is shown once; only its digest is stored."""

import hashlib
import hmac
import secrets


def new() -> str:
    """A new secret: 256 random bits, as text that can stand in a header."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """SHA-256, in hexadecimal. 256 random bits cannot be guessed, so a slow hash is not needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, stored_digest: str | None) -> bool:
    """Whether the secret has this digest; False for None. Takes the same time in every case."""
    return hmac.compare_digest(stored_digest or digest(""), digest(secret)) and stored_digest is not None
