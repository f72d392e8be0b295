"""Data sets of a model: image archives, checked and stored encrypted."""

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.datasets.tables import DatasetRow
from app.registry import service as registry
from app.vault import service as vaults
from app.vault.service import Binding, StoredObject, Vault
from lirf_core.images import archives
from lirf_core.images.archives import ImageArchive, ImageSet
from lirf_core.images.decoding import Decoders, GivenUp


class Purpose(StrEnum):
    """deposit: images of the classes to forget. evaluation: held-out images of any class, never used for training.

    reference: training images of preserved classes, to train a network from that never saw the deposited ones.
    preserved: some images of classes that stay, which a deposit may use.
    """

    DEPOSIT = "deposit"
    EVALUATION = "evaluation"
    REFERENCE = "reference"
    PRESERVED = "preserved"


class UnknownDataset(Problem):
    """No data set of this model and purpose has this id. Upload one."""

    status, slug, title = 404, "unknown-dataset", "There is no such data set"


class DatasetShredded(Problem):
    """The data set was shredded, as happens when its deposit ends. Upload the images again."""

    status, slug, title = 410, "dataset-shredded", "The data set was shredded"


class DatasetInUse(Problem):
    """A job that has not ended uses the data set. Wait for it, cancel it, or upload another set."""

    status, slug, title = 409, "dataset-in-use", "An unfinished job uses the data set"


class ArchiveRefused(Problem):
    """The zip is damaged, encrypted or packed by an unusual method. Make the archive again."""

    status, slug, title = 422, "archive-refused", "The image archive cannot be used"


class Stopped(Problem):
    """The client closed the connection, or its key was revoked, while the images were read. Send them again."""

    status, slug, title = 400, "upload-stopped", "The upload was stopped"


class StorageFull(Problem):
    """The images need more space than the vault has free. Free space, or upload fewer images."""

    status, slug, title = 507, "storage-full", "The vault is full"


_SLUGS = {
    archives.UnsafeArchive: "unsafe-archive",
    archives.UnknownFolder: "unknown-class",
    archives.NoImages: "no-images",
    archives.UnreadableImages: "unreadable-images",
}


def upload(
    session: Session,
    vault: Vault,
    decoders: Decoders,
    actor: Actor,
    model_name: str,
    purpose: Purpose,
    file: BinaryIO,
    stop: GivenUp | None = None,
) -> DatasetRow:
    """Check the archive, decode every image and store the images, packed. stop: ends it when set.

    Raises `Stopped`, `UnknownModel`, `ModelRemoved`, `WeightsMissing`, `ArchiveRefused`, `StorageFull`; then nothing is
    stored.
    """
    with session.begin():
        model = registry.get_ready(session, model_name)
    dataset_id = new_id()
    try:
        archive = ImageArchive(file, model.class_names)
        size = registry.preprocessing_of(model)
        needed, free = archive.packed_bytes(size), vault.objects.free_bytes()
        if needed > free:
            raise StorageFull(
                f"The images need {needed:,} bytes; the vault has {free:,} bytes free. "
                "Free space or upload fewer images."
            )
        packed = _until(stop, archive.pack(size, decoders, stop))
        sealed = vault.put(Binding("images", model.id, dataset_id), packed)
    except archives.BadArchive as error:
        raise _refusal(error) from error
    row = DatasetRow(
        id=dataset_id,
        model_id=model.id,
        purpose=str(purpose),
        counts=archive.counts,
        created_at=now(),
        created_by=actor.name,
    )
    with vault.discarded_on_error(sealed), session.begin():
        registry.lock_present(session, model.id)
        row.object_id = vaults.record(session, sealed)
        session.add(row)
        details = {"purpose": row.purpose, "counts": row.counts, "object": sealed.name}
        audit.record(session, actor.name, "dataset.stored", model=model_name, subject=row.id, details=details)
    return row


def _until(stop: GivenUp | None, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if stop and stop.is_set():
            raise Stopped("The upload was stopped, because nobody waits for it any more. Send it again.")
        yield piece


def get(session: Session, dataset_id: str) -> DatasetRow:
    """The data set with this id. Raises `UnknownDataset`."""
    row = session.get(DatasetRow, dataset_id)
    if row is None:
        raise UnknownDataset(
            f"There is no data set '{dataset_id[:64]}'. Upload one with `POST /v1/models/NAME/datasets`."
        )
    return row


def of_model(session: Session, model_id: str, dataset_id: str) -> DatasetRow:
    """A data set of this model, even if it is shredded. Raises `UnknownDataset`."""
    row = get(session, dataset_id)
    if row.model_id != model_id:
        raise UnknownDataset(f"Data set '{dataset_id}' belongs to another model.")
    return row


def get_usable(session: Session, model_id: str, dataset_id: str, purpose: Purpose) -> DatasetRow:
    """A data set of this model and purpose that is not shredded. Raises `UnknownDataset`, `DatasetShredded`."""
    row = get(session, dataset_id)
    if row.model_id != model_id or row.purpose != purpose:
        raise UnknownDataset(
            f"This model has no {purpose} set '{dataset_id}'. Upload one with `POST /v1/models/NAME/datasets`."
        )
    if row.shredded_at:
        raise DatasetShredded(
            f"Data set '{dataset_id}' was shredded at {row.shredded_at:%Y-%m-%d %H:%M} UTC. Upload the images again."
        )
    return row


def newest_evaluation_set(session: Session, model_id: str) -> DatasetRow | None:
    return session.scalar(
        sa.select(DatasetRow)
        .where(
            DatasetRow.model_id == model_id, DatasetRow.purpose == Purpose.EVALUATION, DatasetRow.shredded_at.is_(None)
        )
        .order_by(DatasetRow.id.desc())
        .limit(1)
    )


def list_of_model(session: Session, model_name: str, page: PageRequest) -> tuple[Sequence[DatasetRow], str | None]:
    model = registry.get(session, model_name)
    return newest_first(session, sa.select(DatasetRow).where(DatasetRow.model_id == model.id), DatasetRow.id, page)


def stored_images(session: Session, dataset_id: str) -> StoredObject:
    return vaults.stored_object(session, get(session, dataset_id).object_id)


def shredded(session: Session, dataset_ids: Collection[str]) -> set[str]:
    """Those of the data sets that are shredded."""
    query = sa.select(DatasetRow.id).where(DatasetRow.id.in_(dataset_ids), DatasetRow.shredded_at.is_not(None))
    return set(session.scalars(query))


def stored_images_if_present(session: Session, dataset_id: str) -> StoredObject | None:
    """Like `stored_images`; None if the data set is shredded."""
    row = get(session, dataset_id)
    return None if row.shredded_at else vaults.stored_object(session, row.object_id)


def load(vault: Vault, stored: StoredObject, spool: Path) -> ImageSet:
    """The images of a stored data set, mapped from an unnamed file that is deleted together with them."""
    with tempfile.TemporaryFile(dir=spool) as file:
        vault.copy_to(stored, cast(BinaryIO, file))
        file.flush()
        return archives.load_packed(cast(BinaryIO, file))


def unshredded(session: Session, model_id: str) -> Sequence[str]:
    """The ids of a model's data sets, of every purpose, that still have their images."""
    is_present = DatasetRow.model_id == model_id, DatasetRow.shredded_at.is_(None)
    return session.scalars(sa.select(DatasetRow.id).where(*is_present)).all()


def unshredded_of(session: Session, model_id: str, purpose: Purpose) -> Sequence[DatasetRow]:
    """A model's data sets of this purpose that still have their images, newest first."""
    is_present = DatasetRow.model_id == model_id, DatasetRow.shredded_at.is_(None), DatasetRow.purpose == purpose
    return session.scalars(sa.select(DatasetRow).where(*is_present).order_by(DatasetRow.id.desc())).all()


def shred(session: Session, actor: str, dataset_id: str) -> list[str]:
    """Shred a data set in the caller's transaction. Returns the names of vault objects to delete after the commit."""
    row = get(session, dataset_id)
    if row.shredded_at:
        return []
    row.shredded_at = now()
    model = registry.by_id(session, row.model_id)
    audit.record(session, actor, "dataset.shredded", model=model.name, subject=row.id)
    return [vaults.shred(session, row.object_id)]


def discard(
    session: Session,
    vault: Vault,
    actor: Actor,
    model_name: str,
    dataset_id: str,
    is_used: Callable[[Session, str], bool],
) -> None:
    """Shred a data set that is not in use. Does nothing if it is shredded already.

    is_used: whether something still needs the data set with this id; called under the model's lock.
    Raises `UnknownModel`, `UnknownDataset`, `DatasetInUse`.
    """
    with session.begin():
        model = registry.get(session, model_name)
        registry.lock(session, model.id)
        row = of_model(session, model.id, dataset_id)
        if is_used(session, row.id):
            raise DatasetInUse(f"An unfinished job uses data set '{row.id}'. Cancel that job first.")
        garbage = shred(session, actor.name, row.id)
    vault.remove(garbage)


def _refusal(error: archives.BadArchive) -> ArchiveRefused:
    members: dict[str, Any] = {}
    if isinstance(error, archives.UnreadableImages):
        members = {"unreadable": error.names, "unreadable_total": error.total}
    refusal = ArchiveRefused(str(error), **members)
    refusal.slug = _SLUGS.get(type(error), ArchiveRefused.slug)  # type: ignore[misc]
    return refusal
