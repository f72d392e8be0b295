"""The store for ciphertext: a local folder or S3, through fsspec. An object is written once, under its digest."""

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

# Requests wait for S3: if it does not answer, say so before clients give up.
_S3_CLIENT = {"connect_timeout": 3, "read_timeout": 10, "retries": {"total_max_attempts": 2}}

PART_BYTES = 8 << 20  # of an upload


class StoreUnavailable(OSError):
    """The store did not answer, or refused the request."""


@contextmanager
def as_store_errors() -> Iterator[None]:
    """Raise `StoreUnavailable` for errors of the store's client that are not an OSError."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise StoreUnavailable(errno.EIO, f"the vault's store is unavailable: {type(error).__name__}") from error


class ObjectStore:
    """Stores objects by name. Names are lower-case hexadecimal digests from the vault, never a user's text."""

    def __init__(self, url: str, options: dict[str, str], spool: Path) -> None:
        s3_options: dict[str, Any] = {"config_kwargs": _S3_CLIENT} if url.startswith("s3://") else {}
        self._files, self._root = fsspec.core.url_to_fs(url, **s3_options, **options)
        self._upload = {"chunksize": PART_BYTES} if s3_options else {}
        if s3_options:
            self._files.retries = 1  # botocore has retried already
        self._is_local = isinstance(self._files, LocalFileSystem)
        self._spool = Path(self._root) / "incoming" if self._is_local else spool
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        """A temporary file for a new object, on the same disk. Deleted afterwards unless `store` took it."""
        with tempfile.NamedTemporaryFile(dir=self._spool, delete=False) as file:
            try:
                yield cast(BinaryIO, file)
            finally:
                Path(file.name).unlink(missing_ok=True)

    def store(self, file: BinaryIO, name: str, on_part: Callable[[], None] = lambda: None) -> None:
        """Make an incoming file the object `name`, durably: flush it, rename it, flush its folder (or upload it).

        on_part: called after each uploaded part, on a thread of the store's client. Its exceptions are ignored.
        """
        file.flush()
        if not self._is_local:

            def on_progress(*_: object) -> None:
                with suppress(Exception):
                    on_part()

            with as_store_errors():
                progress = Callback(hooks={"on_progress": on_progress})
                self._files.put_file(file.name, self._path(name), callback=progress, **self._upload)
            return
        os.fsync(file.fileno())
        path = Path(self._path(name))
        path.parent.mkdir(mode=0o700, exist_ok=True)
        Path(file.name).replace(path)
        for folder in (path.parent, path.parent.parent):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def open(self, name: str) -> IO[bytes]:
        """Open an object. Raises FileNotFoundError and, like every method here, `StoreUnavailable`."""
        with as_store_errors():
            return cast(IO[bytes], self._files.open(self._path(name), "rb"))

    def remove(self, name: str) -> None:
        """Delete an object. Does nothing if it does not exist, so that a deletion can be repeated."""
        with suppress(FileNotFoundError), as_store_errors():
            self._files.rm_file(self._path(name))

    def names(self) -> set[str]:
        """The names of all objects."""
        self._files.invalidate_cache()
        with as_store_errors():
            paths = self._files.find(self._root)
        return {Path(path).name for path in paths if Path(path).parent.name != "incoming"}

    def written_at(self, name: str) -> datetime:
        """When the object was stored. Raises FileNotFoundError."""
        with as_store_errors():
            time: datetime = self._files.modified(self._path(name))
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time

    def free_bytes(self) -> int:
        """Free space on the disk for incoming objects."""
        return shutil.disk_usage(self._spool).free

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"
