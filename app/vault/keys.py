"""Master keys wrap data keys. One small interface, so that a key service can take the place of the file."""

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, Protocol

import tink
from tink import aead, secret_key_access


class MasterKeys(Protocol):
    """Wraps and unwraps data keys under a versioned key that never leaves it."""

    @property
    def version(self) -> int:
        """The version that `wrap` uses now."""

    def wrap(self, data_key: bytes, associated: bytes) -> bytes: ...

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

    def wrap(self, data_key: bytes, associated: bytes) -> bytes:
        with self._lock:
            self._refresh()
            wrapped: bytes = self._aead.encrypt(data_key, associated)
        return wrapped

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        with self._lock:
            self._refresh()
            data_key: bytes = self._aead.decrypt(wrapped, associated)
        return data_key

    def add_primary(self) -> None:
        """A new key, with which everything is wrapped from now on. The file changes at once or not at all."""
        with self._lock:
            self._refresh()
            keyset, added = json.loads(self._path.read_text()), json.loads(_new_keyset())
            while added["primaryKeyId"] in {key["keyId"] for key in keyset["key"]}:
                added = json.loads(_new_keyset())
            keyset["key"] += added["key"]
            keyset["primaryKeyId"] = added["primaryKeyId"]
            self._write(keyset)

    def _write(self, keyset: dict[str, Any]) -> None:
        own = _own_file(self._path, json.dumps(keyset))
        own.replace(self._path)
        descriptor = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._refresh()

    def _refresh(self) -> None:
        status = self._path.stat()
        if self._read_at == (status.st_mtime_ns, status.st_ino):
            return
        if status.st_mode & 0o077:
            raise UnsafeKeyFile(f"{self._path} can be read by others than its owner; run `chmod 600 {self._path}`.")
        keyset = tink.json_proto_keyset_format.parse(self._path.read_text(), secret_key_access.TOKEN)
        self._aead = keyset.primitive(aead.Aead)
        self._version: int = keyset.keyset_info().primary_key_id
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
