"""A folder of class folders becomes a zip. Everything in it is packed, or refused or skipped by name."""

import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lirf_core.enumeration import enumerated
from lirf_core.images.file_names import is_of_system

FILL_OR_REMOVE = "Add images of its class, or remove the folder."
MAX_NAMED = 5  # files in a message
_SEPARATOR = re.compile(r"[/\\]")  # some programs on Windows write back slashes


class UnfitImages(ValueError):
    """Something in the folder would not be sent. The message names it and says what to do."""


class ImageFolder(NamedTuple):
    """files: each with its name in the archive. skipped: what only an operating system or a file manager needs."""

    files: list[tuple[Path, str]]
    skipped: list[str]


@contextmanager
def zipped(images: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the images as a zip, and the names of what was skipped. A zip is passed on as it is.

    A folder goes into a temporary zip, uncompressed, since images are compressed. Raises `UnfitImages`, OSError.
    """
    if images.is_file():
        yield images, _skipped_in(images)
        return
    folder = read(images)
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "images.zip"
        # Cameras without a clock and some archives set times that a zip cannot hold.
        with zipfile.ZipFile(archive, "w", strict_timestamps=False) as packed:
            for file, name in folder.files:
                packed.write(file, name)
        yield archive, folder.skipped


def count_files(archive: Path) -> int:
    """How many files of the zip the service must read as images."""
    with zipfile.ZipFile(archive) as packed:
        return sum(not _is_folder(info) and not _is_in_system_path(info.filename) for info in packed.infolist())


def _skipped_in(archive: Path) -> list[str]:
    """The zip's files that only an operating system needs. Raises `UnfitImages` if a class folder is empty."""
    try:
        with zipfile.ZipFile(archive) as packed:
            infos = packed.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise UnfitImages(
            f"'{archive}' is neither a folder nor a zip. Give one with a folder for each class."
        ) from None
    skipped: list[str] = []
    folders: list[str] = []
    parents: set[str] = set()
    for info in infos:
        if _is_folder(info):
            if not _is_in_system_path(info.filename):
                folders.append(info.filename)
        elif _is_in_system_path(info.filename):
            skipped.append(info.filename)
        else:
            parents.update(info.filename[: end.end()] for end in _SEPARATOR.finditer(info.filename))
    for folder in folders:
        if folder not in parents:
            raise UnfitImages(f"The folder '{folder}' in '{archive}' has no images. {FILL_OR_REMOVE}")
    return skipped


def read(root: Path) -> ImageFolder:
    """Find every image below the folder, also through symbolic links. Raises `UnfitImages`, OSError."""
    folder = ImageFolder([], [])
    _collect(root, "", folder, ())
    if not folder.files:
        raise UnfitImages(f"'{root}' has no images. It needs a folder of images for each class.")
    if loose := [name for _, name in folder.files if "/" not in name]:
        raise UnfitImages(
            f"Not in a class folder of '{root}': {enumerated(loose, MAX_NAMED)}. Put each image into one."
        )
    return folder


def _collect(folder: Path, name: str, contents: ImageFolder, above: tuple[tuple[int, int], ...]) -> None:
    """name: of the folder in the archive. above: device and inode of each folder on the way down."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise UnfitImages(f"'{folder}' is a link to a folder that contains it. Remove the link.")
    count = len(contents.files)
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        path, inner = Path(entry.path), f"{name}/{entry.name}" if name else entry.name
        if is_of_system(entry.name):
            contents.skipped.append(inner)
            continue
        try:
            mode = entry.stat().st_mode
        except FileNotFoundError:
            raise UnfitImages(f"'{path}' is a link to a file that is not there. Remove or mend it.") from None
        except OSError as error:
            raise UnfitImages(f"'{path}' cannot be read: {error.strerror}.") from None
        if stat.S_ISDIR(mode):
            _collect(path, inner, contents, (*above, here))
        elif stat.S_ISREG(mode):
            contents.files.append((path, _encodable(inner, path)))
        else:
            raise UnfitImages(f"'{path}' is neither a file nor a folder. Remove it.")
    if name and len(contents.files) == count:
        raise UnfitImages(f"The folder '{folder}' has no images. {FILL_OR_REMOVE}")


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith(("/", "\\"))


def _is_in_system_path(name: str) -> bool:
    return any(map(is_of_system, name.replace("\\", "/").rstrip("/").split("/")))


def _encodable(name: str, path: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise UnfitImages(f"The name of '{shown}' is not UTF-8. Rename the file or its folder.") from None
    return name
