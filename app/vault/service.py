"""The vault: each object is encrypted with its own data key, which a master key wraps (envelope encryption).

Objects are Tink StreamingAEAD ciphertexts (AES256-GCM-HKDF, 1 MB segments). The associated data binds an object to its
model, its subject (deposit, data set or model) and its kind, so that no object can replace another.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Literal

import sqlalchemy as sa
import tink
from sqlalchemy.orm import Session
from tink import secret_key_access, streaming_aead

from app.base.database import changes, new_id, now
from app.base.errors import Problem
from app.base.settings import Settings
from app.vault.keys import FileMasterKeys, MasterKeys, NoMasterKeys
from app.vault.objects import ObjectStore, as_store_errors
from app.vault.tables import ErasureRow, VaultObjectRow

log = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 20
FORMAT = 1

Kind = Literal[
    "upper", "trunk", "rows", "lower", "module", "hardened", "images", "checkpoint", "reference", "signing-key"
]


class VaultDamaged(Problem):
    """The object is missing, changed, or belongs elsewhere. Nothing of it was used. Restore its file from a backup."""

    status, slug, title = 500, "vault-damaged", "A stored object cannot be opened"


class Shredded(Problem):
    """The key of the stored object was destroyed, so nobody can open it any more."""

    status, slug, title = 410, "shredded", "The object was destroyed"


@dataclass(frozen=True)
class Binding:
    """An object's kind, model and subject. They are its associated data."""

    kind: Kind
    model_id: str
    subject_id: str

    def associated(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()


@dataclass(frozen=True)
class StoredObject:
    """A stored object: what is needed to open it and to `record` it."""

    id: str
    name: str
    binding: Binding
    wrapped_key: bytes
    master_key_version: int
    plaintext_bytes: int
    ciphertext_bytes: int


class Vault:
    """Encrypts and decrypts objects. The database says which objects exist (`record`, `stored_object`, `shred`)."""

    def __init__(self, objects: ObjectStore, keys: MasterKeys, on_chunk: Callable[[], None] = lambda: None) -> None:
        streaming_aead.register()
        self.objects = objects
        self._keys, self._on_chunk = keys, on_chunk

    def watched(self, on_chunk: Callable[[], None]) -> "Vault":
        """The same vault, which calls `on_chunk` for about each MiB encrypted or decrypted and each uploaded part."""
        return Vault(self.objects, self._keys, on_chunk)

    def put(self, binding: Binding, chunks: Iterable[bytes]) -> StoredObject:
        """Encrypt a stream into a new object, durably. Without `record`, the object is garbage.

        Raises OSError; then nothing is stored.
        """
        template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
        data_key = tink.new_keyset_handle(template)
        wrapped = self._keys.wrap(
            tink.proto_keyset_format.serialize(data_key, secret_key_access.TOKEN), binding.associated()
        )
        primitive = data_key.primitive(streaming_aead.StreamingAead)
        plaintext_bytes = 0
        with self.objects.incoming() as file:
            sink = _HashingWriter(file)
            with primitive.new_encrypting_stream(sink, binding.associated()) as encrypting:
                for chunk in chunks:
                    plaintext_bytes += len(chunk)
                    for begin in range(0, len(chunk), CHUNK_BYTES):
                        encrypting.write(chunk[begin : begin + CHUNK_BYTES])
                        self._on_chunk()
            self.objects.store(file, sink.digest(), self._on_chunk)
        return StoredObject(new_id(), sink.digest(), binding, *wrapped, plaintext_bytes, sink.written)

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt a small value, to be stored in a row."""
        return self._keys.wrap(plaintext, associated).data_key

    def unseal(self, sealed: bytes, associated: bytes) -> bytes:
        """Decrypt a value that `seal` encrypted. Raises `VaultDamaged`."""
        try:
            return self._keys.unwrap(sealed, associated)
        except tink.TinkError as error:
            raise VaultDamaged(
                "A sealed value was changed, or its master key is missing. Restore the master key file from a backup."
            ) from error

    def copy_to(self, sealed: StoredObject, sink: BinaryIO) -> None:
        """Decrypt into `sink`. Do not use its content unless this returns.

        Raises `VaultDamaged`, and OSError if the store does not answer.
        """
        source: _HashingReader | None = None
        try:
            key = self._keys.unwrap(sealed.wrapped_key, sealed.binding.associated())
            primitive = tink.proto_keyset_format.parse(key, secret_key_access.TOKEN).primitive(
                streaming_aead.StreamingAead
            )
            with self.objects.open(sealed.name) as file:
                source = _HashingReader(file)
                with primitive.new_decrypting_stream(source, sealed.binding.associated()) as decrypting:
                    total = 0
                    while chunk := decrypting.read(CHUNK_BYTES):
                        total += len(chunk)
                        sink.write(chunk)
                        self._on_chunk()
                    is_whole = total == sealed.plaintext_bytes and source.digest_of_all() == sealed.name
        except (tink.TinkError, FileNotFoundError, ValueError) as error:
            if source and source.failure and not isinstance(source.failure, FileNotFoundError):
                raise source.failure from error  # Tink has wrapped the store's error
            raise VaultDamaged(
                f"The {sealed.binding.kind} object {sealed.name[:12]} cannot be opened. Restore its file from a backup."
            ) from error
        if not is_whole:
            raise VaultDamaged(
                f"The {sealed.binding.kind} object {sealed.name[:12]} was changed. Restore its file from a backup."
            )

    def read(self, sealed: StoredObject) -> bytes:
        """The whole plaintext, in memory. For networks and modules, which must be loaded whole."""
        sink = io.BytesIO()
        self.copy_to(sealed, sink)
        return sink.getvalue()

    @contextmanager
    def discarded_on_error(self, *stored: StoredObject) -> Iterator[None]:
        """Delete the objects if the block fails to write their rows.

        After a database error or a signal, it is unknown whether the commit took place. Then the objects stay; if no
        row names them, `gc` deletes them later.
        """
        try:
            yield
        except sa.exc.SQLAlchemyError:
            raise
        except Exception:
            self.remove([stored_object.name for stored_object in stored])
            raise

    def remove(self, names: Iterable[str]) -> list[str]:
        """Delete the bytes of objects that no row can open. Returns those that the store did not delete.

        `gc` deletes them later; those that were shredded, the reconciler.
        """
        stuck = []
        for name in names:
            try:
                self.objects.remove(name)
            except OSError:
                log.exception("could not delete object %s; run `lirf vault gc` later", name[:12])
                stuck.append(name)
        return stuck


def open_vault(settings: Settings) -> Vault:
    """Open the vault that the settings describe."""
    objects = ObjectStore(settings.vault, settings.vault_options, settings.spool)
    return Vault(objects, FileMasterKeys(settings.master_key))


def open_sealed_vault(settings: Settings) -> Vault:
    """The vault without its master key: objects can be deleted, but neither opened nor made."""
    return Vault(ObjectStore(settings.vault, settings.vault_options, settings.spool), NoMasterKeys())


def record(session: Session, sealed: StoredObject) -> str:
    """Write the object's row in the caller's transaction. Returns its id."""
    session.add(
        VaultObjectRow(
            id=sealed.id,
            name=sealed.name,
            kind=sealed.binding.kind,
            model_id=sealed.binding.model_id,
            subject_id=sealed.binding.subject_id,
            plaintext_bytes=sealed.plaintext_bytes,
            ciphertext_bytes=sealed.ciphertext_bytes,
            wrapped_key=sealed.wrapped_key,
            master_key_version=sealed.master_key_version,
            created_at=now(),
        )
    )
    session.flush()  # the caller's rows refer to this one
    return sealed.id


def stored_object(session: Session, object_id: str) -> StoredObject:
    """A recorded object, ready to be opened. Raises `Shredded`."""
    return _stored(session.get_one(VaultObjectRow, object_id))


def stored_objects(session: Session, object_ids: Sequence[str]) -> dict[str, StoredObject]:
    """Like `stored_object`, for many ids, with one read. By id."""
    rows = session.scalars(sa.select(VaultObjectRow).where(VaultObjectRow.id.in_(object_ids)))
    return {row.id: _stored(row) for row in rows}


def _stored(row: VaultObjectRow) -> StoredObject:
    if row.wrapped_key is None:
        raise Shredded(f"The {row.kind} object {row.name[:12]} was shredded at {row.shredded_at:%Y-%m-%d %H:%M} UTC.")
    binding = Binding(row.kind, row.model_id, row.subject_id)  # type: ignore[arg-type]
    return StoredObject(
        row.id, row.name, binding, row.wrapped_key, row.master_key_version, row.plaintext_bytes, row.ciphertext_bytes
    )


def shred(session: Session, object_id: str) -> str:
    """Destroy the object's data key in the caller's transaction (crypto-shredding). Returns the object's name.

    After its commit, the caller removes the bytes, which are noise without the key, or calls `erasure.erase`.
    """
    row = session.get_one(VaultObjectRow, object_id)
    unshredded = sa.update(VaultObjectRow).where(VaultObjectRow.id == object_id, VaultObjectRow.shredded_at.is_(None))
    if changes(session, unshredded.values(wrapped_key=None, shredded_at=now())):
        session.add(ErasureRow(object_id=row.id, name=row.name, model_id=row.model_id))
        session.flush()
    return row.name


def forget(session: Session, object_id: str) -> str:
    """Like `shred`, but deletes the object's row too."""
    row = session.get_one(VaultObjectRow, object_id)
    session.delete(row)
    session.flush()
    return row.name


def is_shredded(session: Session, object_id: str) -> bool:
    return session.get_one(VaultObjectRow, object_id).wrapped_key is None


def live_names(session: Session) -> set[str]:
    """The names of all objects that a row can open."""
    return set(session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_not(None))))


def shredded_names(session: Session, names: Iterable[str]) -> set[str]:
    """The names, among these, of objects whose key was destroyed."""
    query = sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_(None))
    return set(session.scalars(query.where(VaultObjectRow.name.in_(list(names)))))


class _HashingWriter(io.RawIOBase):
    """Hashes what is written and passes it on. Closing it leaves the underlying file open, to be flushed to disk."""

    def __init__(self, below: BinaryIO) -> None:
        self._below, self._hasher, self.written = below, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, chunk: Any) -> int:
        self._below.write(chunk)
        self._hasher.update(chunk)
        self.written += len(chunk)
        return len(chunk)

    def digest(self) -> str:
        return self._hasher.hexdigest()


class _HashingReader(io.RawIOBase):
    """Hashes what is read. `digest_of_all` reads the rest first, to detect appended bytes."""

    def __init__(self, below: Any) -> None:
        self._below, self._hasher = below, hashlib.sha256()
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            with as_store_errors():
                chunk = self._below.read(len(buffer))
        except OSError as error:
            self.failure = error
            raise
        buffer[: len(chunk)] = chunk
        self._hasher.update(chunk)
        return len(chunk)

    def digest_of_all(self) -> str:
        with as_store_errors():
            while chunk := self._below.read(CHUNK_BYTES):
                self._hasher.update(chunk)
        return self._hasher.hexdigest()
