"""Master keys wrap data keys. One small interface, so that a key service can take the place of the file."""

import os
import tempfile
from pathlib import Path
from typing import Protocol

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
    """A Tink keyset (AES256-GCM) in a file of mode 0600, made on first use. Old keys of the keyset still unwrap."""

    def __init__(self, path: Path) -> None:
        aead.register()
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            raise UnsafeKeyFile(f"{path} can be read by others than its owner; run `chmod 600 {path}`.")
        self._keyset = tink.json_proto_keyset_format.parse(path.read_text(), secret_key_access.TOKEN)
        self._aead = self._keyset.primitive(aead.Aead)

    @property
    def version(self) -> int:
        version: int = self._keyset.keyset_info().primary_key_id
        return version

    def wrap(self, data_key: bytes, associated: bytes) -> bytes:
        wrapped: bytes = self._aead.encrypt(data_key, associated)
        return wrapped

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        data_key: bytes = self._aead.decrypt(wrapped, associated)
        return data_key


def _create(path: Path) -> None:
    keyset = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    text = tink.json_proto_keyset_format.serialize(keyset, secret_key_access.TOKEN)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # mode 0600
    own = Path(name)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(own, path)  # unlike a rename it fails where another process was first, and its key is then used
    except FileExistsError:
        pass
    finally:
        own.unlink()
