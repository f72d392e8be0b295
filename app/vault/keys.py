"""Master keys wrap data keys. One small interface, so that a key service can take the place of the file."""

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


class Wrapped(NamedTuple):
    """data_key: under a master key; version: of that master key."""

    data_key: bytes
    version: int


class MasterKeys(Protocol):
    """Wraps and unwraps data keys under a versioned key that never leaves it."""

    @property
    def version(self) -> int:
        """The version that `wrap` uses now."""

    def wrap(self, data_key: bytes, associated: bytes) -> Wrapped: ...

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """Raises tink.TinkError when key or associated data are not those of `wrap`."""


class UnsafeKeyFile(RuntimeError):
    """Others than the owner can read the master key."""


class FileMasterKeys:
    """A Tink keyset (AES256-GCM) in a file of mode 0600, made on first use. Old keys of the keyset still unwrap.

    The file is read again when it has changed, so that a rotation reaches every running process.
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

    def wrap(self, data_key: bytes, associated: bytes) -> Wrapped:
        with self._lock:
            self._refresh()
            return Wrapped(self._aead.encrypt(data_key, associated), self._version)

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        with self._lock:
            self._refresh()
            data_key: bytes = self._aead.decrypt(wrapped, associated)
        return data_key

    def add_primary(self) -> None:
        """A new key, with which everything is wrapped from now on. The file changes at once or not at all."""
        with self._changing() as keyset:
            added = json.loads(_new_keyset())
            while added["primaryKeyId"] in {key["keyId"] for key in keyset["key"]}:
                added = json.loads(_new_keyset())
            keyset["key"] += added["key"]
            keyset["primaryKeyId"] = added["primaryKeyId"]

    def old_versions(self) -> list[int]:
        """Those that unwrap and do not wrap."""
        with self._lock:
            self._refresh()
            return [version for version in self._versions if version != self._version]

    def drop(self, versions: Collection[int]) -> None:
        """What only they unwrap is lost. The file changes at once or not at all; its primary stays."""
        with self._changing() as keyset:
            going = {*versions} - {self._version}
            keyset["key"] = [key for key in keyset["key"] if key["keyId"] not in going]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The keyset, written when the block ends. One process at a time: else one would drop the key of another."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # until it is closed
            with self._lock:
                self._refresh()
                keyset = json.loads(self._path.read_text())
                yield keyset
                _own_file(self._path, json.dumps(keyset)).replace(self._path)
                os.fsync(folder)
                self._refresh()
        finally:
            os.close(folder)

    def _refresh(self) -> None:
        status = self._path.stat()
        if self._read_at == (status.st_mtime_ns, status.st_ino):
            return
        if status.st_mode & 0o077:
            raise UnsafeKeyFile(f"{self._path} can be read by others than its owner; run `chmod 600 {self._path}`.")
        keyset = tink.json_proto_keyset_format.parse(self._path.read_text(), secret_key_access.TOKEN)
        self._aead = keyset.primitive(aead.Aead)
        self._version: int = keyset.keyset_info().primary_key_id
        self._versions = [key.key_id for key in keyset.keyset_info().key_info]
        self._read_at = status.st_mtime_ns, status.st_ino


def _new_keyset() -> str:
    keyset = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    text: str = tink.json_proto_keyset_format.serialize(keyset, secret_key_access.TOKEN)
    return text


def _own_file(beside: Path, text: str) -> Path:
    """A new file with the text, durable, of mode 0600."""
    descriptor, name = tempfile.mkstemp(dir=beside.parent, prefix=f"{beside.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def _create(path: Path) -> None:
    own = _own_file(path, _new_keyset())
    try:
        os.link(own, path)  # unlike a rename it fails where another process was first, and its key is then used
    except FileExistsError:
        pass
    finally:
        own.unlink()
