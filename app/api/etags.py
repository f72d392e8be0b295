"""Versions as ETags (RFC 9110): who changes something says which version of it they have seen."""

from app.base.errors import Problem


class VersionMissing(Problem):
    status, slug, title = 428, "version-missing", "The change does not say what it changes"


class VersionUnknown(Problem):
    status, slug, title = 412, "version-unknown", "No version has this ETag"


def etag(version: int) -> str:
    return f'"{version}"'


def version_of(if_match: str | None) -> int:
    """Raises `VersionMissing`, `VersionUnknown`."""
    if if_match is None:
        raise VersionMissing(
            "send the ETag that `GET` gave as If-Match, so that nobody's change is overwritten unseen."
        )
    text = if_match.strip().strip('"')
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise VersionUnknown("If-Match is not an ETag that `GET` gave; read it again.")
    return int(text)
