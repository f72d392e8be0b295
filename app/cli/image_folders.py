"""A folder of class folders becomes a zip. Everything in it is packed, or refused or skipped by name."""

import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

MAX_NAMED = 5  # files in a message
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
_SYSTEM_FOLDERS = {"__macosx", "$recycle.bin", "system volume information", "@eadir"}


class UnfitFolder(ValueError):
    """Something in the folder would not be sent. The message names it and says what to do."""


class ImageFolder(NamedTuple):
    """files: each with its name in the archive. skipped: what only an operating system or a file manager needs."""

    files: list[tuple[Path, str]]
    skipped: list[str]


@contextmanager
def zipped(images: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the images as a zip, and the names of what was skipped. A zip is passed on as it is.

    A folder goes into a temporary zip, uncompressed, since images are compressed. Raises `UnfitFolder`, OSError.
    """
    if images.is_file():
        yield images, []
        return
    folder = read(images)
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "images.zip"
        # Cameras without a clock and some archives set times that a zip cannot hold.
        with zipfile.ZipFile(archive, "w", strict_timestamps=False) as packed:
            for file, name in folder.files:
                packed.write(file, name)
        yield archive, folder.skipped


def read(root: Path) -> ImageFolder:
    """Find every image below the folder, also through symbolic links. Raises `UnfitFolder`, OSError."""
    found = ImageFolder([], [])
    _collect(root, "", found, ())
    if not found.files:
        raise UnfitFolder(f"'{root}' has no images. It needs a folder of images for each class.")
    if loose := [name for _, name in found.files if "/" not in name]:
        raise UnfitFolder(f"{_listed(loose)} in '{root}' itself. Put each image into the folder of its class.")
    return found


def _collect(folder: Path, name: str, found: ImageFolder, above: tuple[tuple[int, int], ...]) -> None:
    """name: of the folder in the archive. above: device and inode of each folder on the way down."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise UnfitFolder(f"'{folder}' is a link to a folder that contains it. Remove the link.")
    count = len(found.files)
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        path, inner = Path(entry.path), f"{name}/{entry.name}" if name else entry.name
        try:
            mode = entry.stat().st_mode
        except FileNotFoundError:
            raise UnfitFolder(f"'{path}' is a link to a file that is not there. Remove or mend it.") from None
        except OSError as error:
            raise UnfitFolder(f"'{path}' cannot be read: {error.strerror}.") from None
        if _is_of_the_system(entry.name):
            found.skipped.append(inner)
        elif stat.S_ISDIR(mode):
            _collect(path, inner, found, (*above, here))
        elif stat.S_ISREG(mode):
            found.files.append((path, _encodable(inner, path)))
        else:
            raise UnfitFolder(f"'{path}' is neither a file nor a folder. Remove it.")
    if name and len(found.files) == count:
        raise UnfitFolder(f"The folder '{folder}' has no images. Add images of its class, or remove the folder.")


def _is_of_the_system(name: str) -> bool:
    lower = name.lower()
    return lower.startswith(".") or lower in _SYSTEM_FILES or lower in _SYSTEM_FOLDERS


def _encodable(name: str, path: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        _refuse_name(path)
    return name


def _refuse_name(path: Path) -> NoReturn:
    shown = os.fsencode(path).decode(errors="backslashreplace")
    raise UnfitFolder(f"The name of '{shown}' is not UTF-8. Rename the file or its folder.")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more files" if len(names) > MAX_NAMED else ""
    verb = "lies" if len(names) == 1 else "lie"
    return f"{', '.join(repr(name) for name in names[:MAX_NAMED])}{more} {verb}"
