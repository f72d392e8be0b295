"""Uploaded image archives (a zip of class folders) to uint8 tensors in a safetensors file, piece by piece.

Archives are not trusted: names are never used as paths, the bytes that are really read are counted, entries must not
overlap, and images are decoded in separate processes (`decoding`).
"""

import json
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from lirf_core.images.decoding import Decoders, GivenUp, UnreadableImage
from lirf_core.images.file_names import ClassFolders, possible_names
from lirf_core.images.formats import START_BYTES, is_accepted, name_format
from lirf_core.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

_DRIVE = re.compile("[A-Za-z]:(/|$)")
_LOCAL_HEADER = struct.Struct("<4s22xHH")
MAX_NAMED = 20  # unreadable files in a message


class BadArchive(ValueError):
    """The archive cannot be used. The message says why and what to do."""


class UnsafeArchive(BadArchive):
    """An entry has a path that leads out, is a link, overlaps another, or unpacks to too much. Make the zip again."""


class UnknownFolder(BadArchive):
    """A folder is not named after a class of the model. Class names are case-sensitive."""


class NoImages(BadArchive):
    """The zip has no file in a class folder. Put PNG or JPEG files into a folder for each class."""


class UnreadableImages(BadArchive):
    """Some files cannot be read as PNG or JPEG; the first twenty are named. Remove or convert them."""

    def __init__(self, reasons: dict[str, str], total: int) -> None:
        """reasons: why each of the first files cannot be read, by its name."""
        self.names, self.total = list(reasons), total
        verb = "files cannot" if total > 1 else "file cannot"
        files = " ".join(f"'{name}': {reason}" for name, reason in reasons.items())
        more = f" The other {total - len(reasons)} are not named here." if total > len(reasons) else ""
        super().__init__(f"{total} {verb} be read as PNG or JPEG images. Remove or convert them. {files}{more}")


@dataclass(frozen=True)
class Limits:
    """The most that an archive may use.

    total_bytes: of all files, unpacked. ratio: of these to the archive's own bytes, if they are over `free_bytes`.
    """

    entries: int = 1_000_000
    directory_bytes: int = 128 << 20
    image_bytes: int = 64 << 20
    total_bytes: int = 64 << 30
    packed_bytes: int = 16 << 30
    free_bytes: int = 4 << 30
    ratio: int = 100


@dataclass(frozen=True)
class ImageSet:
    """images: uint8 (N, C, H, W); labels: int64 (N,), class indices."""

    images: "Tensor"
    labels: "Tensor"


@dataclass(frozen=True)
class _Entry:
    info: zipfile.ZipInfo
    name: str
    label: int


@dataclass
class ImageArchive:
    """A checked archive. Raises `BadArchive` on construction. Only `pack` decodes images."""

    file: BinaryIO
    classes: Sequence[str]
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        try:
            self._check_directory()
            self._zip = zipfile.ZipFile(self.file)
        except UnicodeDecodeError as error:
            raise BadArchive(
                "A file's name is marked as UTF-8 in the archive, but is not. Create the archive again."
            ) from error
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            if isinstance(error, BadArchive):
                raise
            raise BadArchive(
                f"This is not a readable zip archive{self._real_format()}. Send a zip with one folder of images for "
                "each class."
            ) from error
        files = [info for info in self._zip.infolist() if not info.orig_filename.endswith(("/", "\\"))]
        self._check_safety(files)
        self._folders = ClassFolders(self.classes)
        self._entries = [entry for info in files if (entry := self._entry(info))]
        if not self._entries:
            raise NoImages("The archive has no images. Put PNG or JPEG files into one folder for each class.")
        self._refuse_empty_folders()

    @property
    def counts(self) -> dict[str, int]:
        """The number of images of each class that has any."""
        counts = Counter(entry.label for entry in self._entries)
        return {self.classes[label]: counts[label] for label in sorted(counts)}

    def packed_bytes(self, preprocessing: Preprocessing) -> int:
        """The size of the packed images, without labels and header."""
        return len(self._entries) * preprocessing.channels * preprocessing.height * preprocessing.width

    def pack(
        self, preprocessing: Preprocessing, decoders: Decoders, given_up: GivenUp | None = None
    ) -> Iterator[bytes]:
        """Yield the pieces of a safetensors file with `images` (uint8, (N, C, H, W)) and `labels` (int64, (N,)).

        There is one piece for each image, which is empty if it is unreadable, so that the caller can stop after any.
        Images are converted to the network's channels and resized to its input. Raises `UnreadableImages` at the end.
        """
        count = len(self._entries)
        shape = [count, preprocessing.channels, preprocessing.height, preprocessing.width]
        image_bytes = self.packed_bytes(preprocessing)
        if image_bytes > self.limits.packed_bytes:
            raise UnsafeArchive(
                f"{count} images of {preprocessing.width} x {preprocessing.height} pixels need {image_bytes} bytes; "
                f"the limit is {self.limits.packed_bytes}. Split the archive."
            )
        header = json.dumps(
            {
                "labels": {"dtype": "I64", "shape": [count], "data_offsets": [0, 8 * count]},
                "images": {"dtype": "U8", "shape": shape, "data_offsets": [8 * count, 8 * count + image_bytes]},
            }
        ).encode()
        header += b" " * (-len(header) % 8)
        yield len(header).to_bytes(8, "little") + header
        yield struct.pack(f"<{len(self._entries)}q", *(entry.label for entry in self._entries))
        unreadable: dict[str, str] = {}
        failed = 0
        total_bytes = 0
        for entry in self._entries:
            content = self._read(entry.info)
            total_bytes += len(content)
            if total_bytes > self.limits.total_bytes:
                raise UnsafeArchive(f"The archive unpacks to more than {self.limits.total_bytes} bytes. Split it.")
            try:
                pixels = decoders.decode(content, preprocessing, given_up)
            except UnreadableImage as error:
                failed += 1
                if len(unreadable) < MAX_NAMED:
                    unreadable[entry.name[:200]] = str(error)
                pixels = b""
            yield pixels
        if failed:
            raise UnreadableImages(unreadable, failed)

    def _check_directory(self) -> None:
        """Check the directory's declared size before zipfile reads all of it into memory."""
        end = zipfile._EndRecData(self.file)  # type: ignore[attr-defined]  # also reads the zip64 form
        if end is None:
            raise zipfile.BadZipFile
        entries, directory_bytes = max(end[3], end[4]), end[5]
        if entries > self.limits.entries or directory_bytes > self.limits.directory_bytes:
            raise UnsafeArchive(
                f"The archive has {entries} entries in a directory of {directory_bytes} bytes; "
                f"the limits are {self.limits.entries} entries and {self.limits.directory_bytes} bytes. Split it."
            )

    def _check_safety(self, files: list[zipfile.ZipInfo]) -> None:
        end, previous = 0, ""
        for info in sorted(files, key=lambda info: info.header_offset):
            names = list(possible_names(info))
            name = names[0][:200]
            if any(map(_leads_out, names)):
                raise UnsafeArchive(f"The path '{name}' could lead out of the archive. Use paths like class/image.png.")
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise UnsafeArchive(
                    f"'{name}' is a link or a device, not a file. Put the image itself into the archive."
                )
            if not PurePosixPath(names[0]).parts:
                raise BadArchive("An entry of the archive has no name. Create the archive again.")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise BadArchive(
                    f"'{name}' is compressed with {_compression(info)}. Create the archive again with deflate."
                )
            if info.flag_bits & 0x1:
                raise BadArchive(f"'{name}' is encrypted with a password. Send the archive without a password.")
            if info.file_size > self.limits.image_bytes:
                raise UnsafeArchive(
                    f"'{name}' has {info.file_size} bytes; the limit for an image is {self.limits.image_bytes}."
                )
            if info.header_offset < end:
                raise UnsafeArchive(f"'{name}' shares bytes with '{previous}'. Create the archive again.")
            end, previous = self._data_end(info), name
        unpacked, archive_bytes = sum(info.file_size for info in files), self.file.seek(0, 2)
        if unpacked > self.limits.total_bytes:
            raise UnsafeArchive(
                f"The archive unpacks to {unpacked} bytes; the limit is {self.limits.total_bytes}. Split it."
            )
        if unpacked > max(self.limits.free_bytes, self.limits.ratio * archive_bytes):
            raise UnsafeArchive(
                f"The archive has {archive_bytes} bytes and unpacks to {unpacked}. More than {self.limits.free_bytes} "
                f"bytes must not be more than {self.limits.ratio} times the archive. Create it without compression."
            )

    def _data_end(self, info: zipfile.ZipInfo) -> int:
        self.file.seek(info.header_offset)
        header = self.file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise BadArchive(f"'{info.filename[:200]}' has no local header. Create the archive again.")
        _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        return info.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes) + info.compress_size

    def _refuse_empty_folders(self) -> None:
        """A class whose folder has no images would be left out, and nobody might notice. Raises `NoImages`."""
        with_images = {entry.label for entry in self._entries}
        used = {entry.info.header_offset for entry in self._entries}
        # The folder of a class 'T-shirt' may hold only that of a class 'T-shirt/top'.
        parents = {f"{parent}/" for entry in self._entries for parent in PurePosixPath(entry.name).parents}
        for info in self._zip.infolist():
            if info.header_offset in used or parents.intersection(possible_names(info)):
                continue
            # In a folder's own entry, the name of a file is missing.
            labels = (
                self._folders.find(f"{name}x" if name.endswith("/") else name)[0] for name in possible_names(info)
            )
            label = next((label for label in labels if label is not None), None)
            if label is not None and label not in with_images:
                raise NoImages(f"The folder of '{self.classes[label]}' has no images. Add some, or remove the folder.")

    def _entry(self, info: zipfile.ZipInfo) -> _Entry | None:
        """The entry with its class; None if it belongs to an operating system. Raises `UnknownFolder`."""
        names = list(possible_names(info))
        for name in names:
            label, is_of_system = self._folders.find(name)
            if label is not None:
                return None if is_of_system else _Entry(info, name, label)
        name = names[0]
        if self._folders.find(name)[1]:
            return None
        folder = "/".join(PurePosixPath(name).parts[:-1])
        place = f"in the folder '{folder[-100:]}', which is no class" if folder else "in no folder"
        classes = ", ".join(f"'{label}'" for label in self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
        raise UnknownFolder(
            f"'{name[:200]}' is {place}. The model's classes are {classes} ({len(self.classes)}). Name each folder "
            "after a class. Class names are case-sensitive."
        )

    def _real_format(self) -> str:
        """What the file is instead of a zip, as a part of a message."""
        self.file.seek(0)
        start = self.file.read(START_BYTES)
        return ": it was cut off" if start.startswith(b"PK") else f", but {name_format(start)}"

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        """The file, or only its start if that is not of an image."""
        name = info.filename[:200]
        try:
            with self._zip.open(info) as stream:
                content = stream.read(START_BYTES)
                if is_accepted(content):
                    content += stream.read(info.file_size + 1 - len(content))
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, zlib.error) as error:
            raise BadArchive(f"'{name}' is damaged. Create the archive again.") from error
        if len(content) > info.file_size:
            raise UnsafeArchive(f"'{name}' has more bytes than it declares. Create the archive again.")
        return content


def load_packed(file: BinaryIO) -> ImageSet:
    """An image set from a file of `ImageArchive.pack`, mapped into memory rather than read."""
    import numpy  # here, because processes that only read rows need neither
    import torch

    file.seek(0)
    header_bytes = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(header_bytes))

    def mapped(name: str, kind: str) -> "Tensor":
        offset = 8 + header_bytes + header[name]["data_offsets"][0]
        return torch.from_numpy(numpy.memmap(file, kind, "c", offset, tuple(header[name]["shape"])))

    return ImageSet(mapped("images", "u1"), mapped("labels", "<i8"))


def _leads_out(name: str) -> bool:
    return "\0" in name or name.startswith("/") or bool(_DRIVE.match(name)) or ".." in name.split("/")


def _compression(info: zipfile.ZipInfo) -> str:
    names: dict[int, str] = zipfile.compressor_names  # type: ignore[attr-defined]
    return names.get(info.compress_type, f"method {info.compress_type}")
