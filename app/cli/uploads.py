"""Folders of images, packed and uploaded as data sets."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.image_folders import MAX_NAMED, UnfitImages, count_files, zipped
from app.cli.output import fail, warn
from lirf_client import Dataset
from lirf_core.enumeration import enumerated

if TYPE_CHECKING:
    from lirf_client import Client


@contextmanager
def packed(images: Path) -> Iterator[Path]:
    """Yield the images as a zip, and say what of them is not in it."""
    with ExitStack() as stack:
        try:
            archive, skipped = stack.enter_context(zipped(images))
        except UnfitImages as error:
            fail(str(error))
        if skipped:
            warn(f"Not sent, because only the operating system needs them: {enumerated(skipped, MAX_NAMED)}.")
        yield archive


def upload(lirf: "Client", model: str, archive: Path, purpose: str, *, warns: bool = True) -> Dataset:
    """Upload the images. Refuses if the service stored fewer than there are, which nobody would notice otherwise.

    warns: whether to show what the service says of the images.
    """
    dataset = lirf.upload_dataset(model, archive, purpose=purpose)
    sent, stored = count_files(archive), sum(dataset["counts"].values())
    if stored != sent:
        lirf.discard_dataset(model, dataset["id"])
        fail(f"'{archive}' has {sent} files besides the operating system's own; the service read {stored} as images.")
    for warning in dataset.get("warnings", []) if warns else []:  # services before it had the field
        warn(warning)
    return dataset
