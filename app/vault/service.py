"""The vault: every object is encrypted with its own data key, which a master key wraps (envelope encryption).

Objects are Tink StreamingAEAD ciphertexts (AES256-GCM-HKDF, 1 MB segments). The associated data binds an object to its
model, its subject (deposit, data set or model) and its kind, so that no object can take another's place.
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

from app.base.database import Database, new_id, now
from app.base.errors import Problem
from app.base.settings import Settings
from app.vault.keys import FileMasterKeys, MasterKeys
from app.vault.objects import ObjectStore, told_as_away
from app.vault.tables import VaultObjectRow

log = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 20
FORMAT = 1

Kind = Literal["upper", "lower", "module", "images", "checkpoint", "signing-key"]


class VaultDamaged(Problem):
    """The object is missing, changed, or not the one it should be. Nothing of it was used."""

    status, slug, title = 500, "vault-damaged", "A stored object does not open"


class Shredded(Problem):
    status, slug, title = 410, "shredded", "The object was destroyed"


@dataclass(frozen=True)
class Binding:
    """What an object is, and of whom: its associated data."""

    kind: Kind
    model_id: str
    subject_id: str

    def associated(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()


@dataclass(frozen=True)
class StoredObject:
    """A stored object: enough to open it, and what `record` writes down."""

    id: str
    name: str
    binding: Binding
    wrapped_key: bytes
    master_key_version: int
    plaintext_bytes: int
    ciphertext_bytes: int


class Vault:
    """Puts and opens objects; which objects there are is the database's to say (`record`, `stored`, `shred`)."""

    def __init__(self, objects: ObjectStore, keys: MasterKeys, on_chunk: Callable[[], None] = lambda: None) -> None:
        streaming_aead.register()
        self.objects = objects
        self._keys, self._on_chunk = keys, on_chunk

    def watched(self, on_chunk: Callable[[], None]) -> "Vault":
        """The same vault; it calls `on_chunk` for about each MiB that it encrypts or decrypts, and what is uploaded."""
        return Vault(self.objects, self._keys, on_chunk)

    def put(self, binding: Binding, chunks: Iterable[bytes]) -> StoredObject:
        """Encrypts a stream into a new object, durable before this returns. Only `record` makes it count.

        Raises OSError; then nothing is kept.
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
            self.objects.keep(file, sink.digest(), self._on_chunk)
        return StoredObject(new_id(), sink.digest(), binding, *wrapped, plaintext_bytes, sink.written)

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """For what is too small for an object of its own, and kept in a row."""
        return self._keys.wrap(plaintext, associated).data_key

    def unseal(self, sealed: bytes, associated: bytes) -> bytes:
        """Raises `VaultDamaged`."""
        try:
            return self._keys.unwrap(sealed, associated)
        except tink.TinkError as error:
            raise VaultDamaged("a sealed value was changed, or its master key is not there.") from error

    def copy_to(self, sealed: StoredObject, sink: BinaryIO) -> None:
        """Decrypts into `sink`, which must not be used unless this returns.

        Raises `VaultDamaged`, and OSError where the store does not answer.
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
                raise source.failure from error  # which Tink tells as its own
            raise VaultDamaged(
                f"{sealed.binding.kind} object {sealed.name[:12]} does not open; bring its file back from a backup."
            ) from error
        if not is_whole:
            raise VaultDamaged(
                f"{sealed.binding.kind} object {sealed.name[:12]} was changed; bring its file back from a backup."
            )

    def read(self, sealed: StoredObject) -> bytes:
        """The whole plaintext, in memory: for networks and modules, which are loaded whole anyway."""
        sink = io.BytesIO()
        self.copy_to(sealed, sink)
        return sink.getvalue()

    @contextmanager
    def discarded_on_error(self, *stored: StoredObject) -> Iterator[None]:
        """Removes objects whose rows are not written after all.

        After an error of the database, or a signal, nobody knows whether the commit took place: then the objects
        stay, and are garbage where no row names them.
        """
        try:
            yield
        except sa.exc.SQLAlchemyError:
            raise
        except Exception:
            self.remove([stored_object.name for stored_object in stored])
            raise

    def remove(self, names: Iterable[str]) -> None:
        """Removes bytes whose key is shredded, or that no row names; what the store does not remove now, `gc` does."""
        for name in names:
            try:
                self.objects.remove(name)
            except OSError:
                log.exception("object %s was not removed; `lirf vault gc` will", name[:12])


def open_vault(settings: Settings) -> Vault:
    """The vault that the settings describe."""
    objects = ObjectStore(settings.vault, settings.vault_options, settings.spool)
    return Vault(objects, FileMasterKeys(settings.master_key))


def record(session: Session, sealed: StoredObject) -> str:
    """Writes the object down in the caller's transaction and returns its id: from then on it is kept."""
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
    session.flush()  # the caller's rows refer to it
    return sealed.id


def stored(session: Session, object_id: str) -> StoredObject:
    """What is needed to open a recorded object. Raises `Shredded`."""
    return _stored(session.get_one(VaultObjectRow, object_id))


def stored_all(session: Session, object_ids: Sequence[str]) -> dict[str, StoredObject]:
    """As `stored`, by id, with one read."""
    rows = session.scalars(sa.select(VaultObjectRow).where(VaultObjectRow.id.in_(object_ids)))
    return {row.id: _stored(row) for row in rows}


def _stored(row: VaultObjectRow) -> StoredObject:
    if row.wrapped_key is None:
        raise Shredded(f"{row.kind} object {row.name[:12]} was shredded at {row.shredded_at:%Y-%m-%d %H:%M} UTC.")
    binding = Binding(row.kind, row.model_id, row.subject_id)  # type: ignore[arg-type]
    return StoredObject(
        row.id, row.name, binding, row.wrapped_key, row.master_key_version, row.plaintext_bytes, row.ciphertext_bytes
    )


def shred(session: Session, object_id: str) -> str:
    """Destroys the object's key in the caller's transaction (crypto-shredding) and returns the name of the bytes.

    The caller removes the bytes after its commit; without the key they are noise.
    """
    row = session.get_one(VaultObjectRow, object_id)
    session.execute(
        sa.update(VaultObjectRow)
        .where(VaultObjectRow.id == object_id, VaultObjectRow.shredded_at.is_(None))
        .values(wrapped_key=None, shredded_at=now())
    )
    return row.name


def clear(database: Database, vault: Vault, garbage: Sequence[str]) -> None:
    """After the transaction that shredded them: keys leave the database's files, and their bytes the store."""
    if garbage:
        database.erase_freed_data()
        vault.remove(garbage)


def forget(session: Session, object_id: str) -> str:
    """`shred` for what leaves no row behind."""
    row = session.get_one(VaultObjectRow, object_id)
    session.delete(row)
    session.flush()
    return row.name


def is_shredded(session: Session, object_id: str) -> bool:
    return session.get_one(VaultObjectRow, object_id).wrapped_key is None


def live_names(session: Session) -> set[str]:
    """Objects that a row can open."""
    return set(session.scalars(sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_not(None))))


def shredded_names(session: Session, names: Iterable[str]) -> set[str]:
    """Those of these objects whose key was destroyed."""
    query = sa.select(VaultObjectRow.name).where(VaultObjectRow.wrapped_key.is_(None))
    return set(session.scalars(query.where(VaultObjectRow.name.in_(list(names)))))


class _HashingWriter(io.RawIOBase):
    """Passes writes on and hashes them; closing it leaves the file below open, for the flush to disk."""

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
    """Hashes what is read; `digest_of_all` first reads what is left, so that appended bytes are seen."""

    def __init__(self, below: Any) -> None:
        self._below, self._hasher = below, hashlib.sha256()
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            with told_as_away():
                chunk = self._below.read(len(buffer))
        except OSError as error:
            self.failure = error
            raise
        buffer[: len(chunk)] = chunk
        self._hasher.update(chunk)
        return len(chunk)

    def digest_of_all(self) -> str:
        with told_as_away():
            while chunk := self._below.read(CHUNK_BYTES):
                self._hasher.update(chunk)
        return self._hasher.hexdigest()
