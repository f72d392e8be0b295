"""Master keys, which wrap data keys. The interface is small, so that a key service can replace the key file."""

import fcntl
import json
import os
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import tink
from tink import aead, secret_key_access


class WrappedKey(NamedTuple):
    """data_key: encrypted with a master key. version: that master key's version."""

    data_key: bytes
    version: int


class MasterKeys(Protocol):
    """Wraps and unwraps data keys with versioned master keys, which never leave this object."""

    @property
    def version(self) -> int:
        """The version of the master key that `wrap` uses now."""

    def wrap(self, data_key: bytes, associated: bytes) -> WrappedKey: ...

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """Raises tink.TinkError if the master key or the associated data differ from those of `wrap`."""


class NoMasterKeys:
    """For a process that deletes objects but opens none: it works without the master key."""

    version = 0

    def wrap(self, data_key: bytes, associated: bytes) -> WrappedKey:
        raise RuntimeError("this process has no master key")

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        raise RuntimeError("this process has no master key")


class UnsafeKeyFile(RuntimeError):
    """Other users can read the master key file."""


class BrokenKeyFile(RuntimeError):
    """The master key file is not what this service wrote."""


class FileMasterKeys:
    """A Tink keyset (AES256-GCM) in a file with mode 0600, created on first use. Old keys of the keyset still unwrap.

    The file is read again after each change, so that a rotation reaches every running process.
    """

    def __init__(self, path: Path) -> None:
        aead.register()
        self._path, self._lock = path, threading.Lock()
        if not path.exists():
            _create(path)
        self._read_at: tuple[int, int] | None = None
        self._refresh()

    @property
    def version(self) -> int:
        with self._lock:
            self._refresh()
            return self._version

    def wrap(self, data_key: bytes, associated: bytes) -> WrappedKey:
        with self._lock:
            self._refresh()
            return WrappedKey(self._aead.encrypt(data_key, associated), self._version)

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        with self._lock:
            self._refresh()
            data_key: bytes = self._aead.decrypt(wrapped, associated)
        return data_key

    def add_primary(self) -> None:
        """Add a new master key, which wraps everything from now on. The file changes atomically."""
        with self._changing() as keyset:
            new = json.loads(_new_keyset())
            while new["primaryKeyId"] in {key["keyId"] for key in keyset["key"]}:
                new = json.loads(_new_keyset())
            keyset["key"] += new["key"]
            keyset["primaryKeyId"] = new["primaryKeyId"]

    def old_versions(self) -> list[int]:
        """The versions that can still unwrap but no longer wrap."""
        with self._lock:
            self._refresh()
            return [version for version in self._versions if version != self._version]

    def drop(self, versions: Collection[int]) -> None:
        """Delete master keys, except the newest. What only they can unwrap is lost. The file changes atomically."""
        with self._changing() as keyset:
            dropped = {*versions} - {self._version}
            keyset["key"] = [key for key in keyset["key"] if key["keyId"] not in dropped]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The keyset, which is written when the block ends. A lock keeps processes from losing each other's changes."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # until `folder` is closed
            with self._lock:
                self._refresh()
                keyset = json.loads(self._path.read_text())
                yield keyset
                _private_file(self._path, json.dumps(keyset)).replace(self._path)
                os.fsync(folder)
                self._refresh()
        finally:
            os.close(folder)

    def _refresh(self) -> None:
        status = self._path.stat()
        if self._read_at == (status.st_mtime_ns, status.st_ino):
            return
        if status.st_mode & 0o077:
            raise UnsafeKeyFile(f"Other users can read the master key file {self._path}. Run `chmod 600 {self._path}`.")
        try:
            text = self._path.read_text(encoding="utf-8-sig")  # some editors add a byte-order mark
            keyset = tink.json_proto_keyset_format.parse(text, secret_key_access.TOKEN)
        except (tink.TinkError, ValueError) as error:
            raise BrokenKeyFile(
                f"The master key file {self._path} is not a Tink keyset. Put its backup in its place."
            ) from error
        self._aead = keyset.primitive(aead.Aead)
        self._version: int = keyset.keyset_info().primary_key_id
        self._versions = [key.key_id for key in keyset.keyset_info().key_info]
        self._read_at = status.st_mtime_ns, status.st_ino


def _new_keyset() -> str:
    keyset = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    text: str = tink.json_proto_keyset_format.serialize(keyset, secret_key_access.TOKEN)
    return text


def _private_file(neighbour: Path, text: str) -> Path:
    """Write the text, durably, to a new file with mode 0600 next to `neighbour`."""
    descriptor, name = tempfile.mkstemp(dir=neighbour.parent, prefix=f"{neighbour.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def _create(path: Path) -> None:
    file = _private_file(path, _new_keyset())
    try:
        os.link(file, path)  # unlike a rename, fails if another process was first; then its key is used
    except FileExistsError:
        pass
    finally:
        file.unlink()
