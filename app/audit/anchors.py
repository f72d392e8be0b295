"""Anchors: heads of the audit, stored in a file outside the database. One JSON object per line, newest last."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.audit.chain import Head

TAIL_BYTES = 4096  # longer than any line
LOCK_SECONDS = 5.0


class NotAnchors(ValueError):
    """The file contains something that is no anchor, or its anchors go back."""


class AnchorFile:
    """A locked anchor file. It works if the system only allows appending to it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def newest(self) -> Head | None:
        """The anchor in the last line; None if the file is empty. Raises `NotAnchors`."""
        size = os.fstat(self._descriptor).st_size
        if size == 0:
            return None
        begin = max(0, size - TAIL_BYTES)
        tail = os.pread(self._descriptor, size - begin, begin)
        if not tail.endswith(b"\n"):
            raise NotAnchors(
                f"The last line of the anchor file '{self._path}' is incomplete. If a crash or a full disk cut it off, "
                "remove that line; the next anchor replaces it."
            )
        return _anchor(self._path, tail[:-1].rpartition(b"\n")[2], "The last line")

    def append(self, head: Head) -> None:
        """Append the head, durably, if the newest anchor is older. The caller has checked that it continues the chain.

        Raises `NotAnchors`, OSError.
        """
        newest = self.newest()
        if newest is not None and newest.number >= head.number:
            return
        line = json.dumps({"number": head.number, "digest": head.digest}) + "\n"
        size = os.fstat(self._descriptor).st_size
        if os.write(self._descriptor, line.encode()) != len(line):
            with suppress(OSError):  # a file that only takes appends keeps the half line, and `newest` names it
                os.ftruncate(self._descriptor, size)
            raise OSError(errno.ENOSPC, "The disk of the anchor file is full", str(self._path))
        os.fsync(self._descriptor)


@contextmanager
def locked(path: Path) -> Iterator[AnchorFile]:
    """Open the file, which is created if it does not exist, and lock it against other writers.

    Raises OSError, also if another process holds the lock for `LOCK_SECONDS`.
    """
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if is_new:
            _flush_folder(path.absolute().parent)
        _lock(path, descriptor)  # until the descriptor is closed
        yield AnchorFile(path, descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[Head]:
    """All anchors of the file, oldest first. Raises `NotAnchors` if it is empty, or if an anchor goes back; OSError."""
    anchors: list[Head] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                raise NotAnchors(f"Line {number} of the anchor file '{path}' is incomplete.")
            anchor = _anchor(path, line[:-1], f"Line {number}")
            if anchors and anchor.number <= anchors[-1].number and anchor != anchors[-1]:
                raise NotAnchors(
                    f"Line {number} of the anchor file '{path}' anchors event {anchor.number}, but the line before it "
                    f"anchors event {anchors[-1].number}. Anchors never go back: the audit was cut, or somebody "
                    "changed the file."
                )
            anchors.append(anchor)
    if not anchors:
        raise NotAnchors(f"The file '{path}' has no anchor. `lirf audit anchor` writes one.")
    return anchors


def _anchor(path: Path, line: bytes, which: str) -> Head:
    try:
        anchor = json.loads(line)
        number, digest = anchor["number"], anchor["digest"]
        if type(number) is int and number >= 0 and isinstance(digest, str) and len(digest) == 64:
            return Head(number, digest)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise NotAnchors(f"{which} of the file '{path}' is not an anchor. `lirf audit anchor FILE` writes anchors.")


def _lock(path: Path, descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise OSError(errno.EAGAIN, "Another process holds the lock of the anchor file", str(path)) from error
            time.sleep(0.05)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
