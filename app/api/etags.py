"""Versions as ETags (RFC 9110). A change must name the version that it is based on."""

from app.base.errors import Problem


class VersionMissing(Problem):
    """The change carries no `If-Match`. Read the resource and send its ETag."""

    status, slug, title = 428, "version-missing", "The change does not name a version"


class VersionUnknown(Problem):
    """`If-Match` holds something that is not an ETag of this service. Read the resource again."""

    status, slug, title = 412, "version-unknown", "The ETag does not name a version"


def etag(version: int) -> str:
    return f'"{version}"'


def version_of(if_match: str | None) -> int:
    """The version that an If-Match header names. Raises `VersionMissing`, `VersionUnknown`."""
    if if_match is None:
        raise VersionMissing(
            "Send the ETag from `GET` as If-Match, so that you do not overwrite somebody else's change."
        )
    text = if_match.strip().strip('"')
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise VersionUnknown("If-Match must be the ETag from `GET`. Read the resource again.")
    return int(text)
