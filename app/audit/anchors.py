"""Anchors: heads of the audit, written down outside the database, one JSON object to a line, newest last."""

import json
import os
from pathlib import Path

from app.audit.chain import Head


class NoAnchor(ValueError):
    """The file holds no anchor."""


def append(file: Path, head: Head) -> None:
    """Adds a line, durably, unless the last one is the same. The file may be one that can only be appended to."""
    if file.exists() and file.stat().st_size and latest(file) == head:
        return
    with file.open("a") as lines:
        lines.write(json.dumps({"number": head.number, "digest": head.digest}) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def latest(file: Path) -> Head:
    """The newest anchor of the file. Raises `NoAnchor`, OSError."""
    with file.open("rb") as lines:
        lines.seek(max(0, lines.seek(0, os.SEEK_END) - 4096))
        last = lines.read().strip().rpartition(b"\n")[2]
    try:
        found = json.loads(last)
        return Head(int(found["number"]), str(found["digest"]))
    except (ValueError, KeyError, TypeError) as error:
        raise NoAnchor(f"'{file}' does not end with an anchor, as `lirf audit anchor` writes it.") from error
