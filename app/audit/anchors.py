"""Anchors: heads of the audit, stored outside the database. One JSON object per line, newest last."""

import json
import os
from pathlib import Path

from app.audit.chain import Head


class NoAnchor(ValueError):
    """The file contains no anchor."""


def append(file: Path, head: Head) -> None:
    """Append the head, durably, unless the last line is the same. Works with append-only files."""
    if file.exists() and file.stat().st_size and latest(file) == head:
        return
    with file.open("a") as lines:
        lines.write(json.dumps({"number": head.number, "digest": head.digest}) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def latest(file: Path) -> Head:
    """The newest anchor in the file. Raises `NoAnchor`, OSError."""
    with file.open("rb") as lines:
        lines.seek(max(0, lines.seek(0, os.SEEK_END) - 4096))
        last = lines.read().strip().rpartition(b"\n")[2]
    try:
        anchor = json.loads(last)
        return Head(int(anchor["number"]), str(anchor["digest"]))
    except (ValueError, KeyError, TypeError) as error:
        raise NoAnchor(f"The file '{file}' does not end with an anchor. `lirf audit anchor` writes one.") from error
