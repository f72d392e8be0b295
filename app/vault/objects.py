"""Where ciphertext lies: a local folder or S3, through fsspec. Objects are written once, under their digest."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import fsspec
from fsspec.callbacks import Callback
from fsspec.implementations.local import LocalFileSystem

# Where a request waits for it: an S3 that does not answer is told as away before clients give up.
_S3_CLIENT = {"connect_timeout": 3, "read_timeout": 10, "retries": {"total_max_attempts": 2}}

PIECE_BYTES = 8 << 20  # of an upload


class StoreAway(OSError):
    """The store did not answer, or refused."""


@contextmanager
def told_as_away() -> Iterator[None]:
    """Each kind of store has errors of its own, not all of them OSError."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise StoreAway(errno.EIO, f"the vault's store is away: {type(error).__name__}") from error


class ObjectStore:
    """Names are lower-case hexadecimal digests, made by the vault: never a user's text."""

    def __init__(self, url: str, options: dict[str, str], spool: Path) -> None:
        further: dict[str, Any] = {"config_kwargs": _S3_CLIENT} if url.startswith("s3://") else {}
        self._files, self._root = fsspec.core.url_to_fs(url, **further, **options)
        self._upload = {"chunksize": PIECE_BYTES} if further else {}
        if further:
            self._files.retries = 1  # botocore has tried again already
        self._is_local = isinstance(self._files, LocalFileSystem)
        self._spool = Path(self._root) / "incoming" if self._is_local else spool
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        """A file to write an object into, beside its final place. It is gone afterwards unless it was kept."""
        with tempfile.NamedTemporaryFile(dir=self._spool, delete=False) as file:
            try:
                yield cast(BinaryIO, file)
            finally:
                Path(file.name).unlink(missing_ok=True)

    def keep(self, file: BinaryIO, name: str, on_piece: Callable[[], None] = lambda: None) -> None:
        """Makes an incoming file the object `name`, durably: flushed, renamed, folder flushed (or uploaded whole).

        on_piece: called for each piece that is uploaded, by the thread of the store's client: what it raises is lost.
        """
        file.flush()
        if not self._is_local:

            def told(*_: object) -> None:
                with suppress(Exception):
                    on_piece()

            with told_as_away():
                told_of_pieces = Callback(hooks={"told": told})
                self._files.put_file(file.name, self._path(name), callback=told_of_pieces, **self._upload)
            return
        os.fsync(file.fileno())
        place = Path(self._path(name))
        place.parent.mkdir(mode=0o700, exist_ok=True)
        Path(file.name).replace(place)
        for folder in (place.parent, place.parent.parent):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def open(self, name: str) -> IO[bytes]:
        """Raises FileNotFoundError, and `StoreAway` as do all that ask the store."""
        with told_as_away():
            return cast(IO[bytes], self._files.open(self._path(name), "rb"))

    def remove(self, name: str) -> None:
        """Removing what is not there is no error: a removal may be tried again."""
        with suppress(FileNotFoundError), told_as_away():
            self._files.rm_file(self._path(name))

    def names(self) -> set[str]:
        """Every object there is."""
        self._files.invalidate_cache()
        with told_as_away():
            found = self._files.find(self._root)
        return {Path(path).name for path in found if Path(path).parent.name != "incoming"}

    def written_at(self, name: str) -> datetime:
        """When the object got its name. Raises FileNotFoundError."""
        with told_as_away():
            found: datetime = self._files.modified(self._path(name))
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found

    def free_bytes(self) -> int:
        """Of the disk that takes incoming objects."""
        return shutil.disk_usage(self._spool).free

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"
