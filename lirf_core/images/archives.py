"""Image archives (a zip of class folders) to uint8 tensors, packed as safetensors without holding the set in memory.

The archive is a stranger's: names are never used as paths, real bytes are counted, entries must be disjoint, and
images are decoded in processes of their own (`decoding`).
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
from typing import BinaryIO

import numpy
import torch
from torch import Tensor

from lirf_core.images.decoding import Decoders, UnreadableImage
from lirf_core.images.preprocessing import Preprocessing

_IGNORED_PARTS = ("__MACOSX",)
_DRIVE = re.compile("[A-Za-z]:")
_LOCAL_HEADER = struct.Struct("<4s22xHH")
MAX_NAMED = 20


class BadArchive(ValueError):
    """The archive cannot be used; the message says why and what to do."""


class UnsafeArchive(BadArchive):
    """An entry has a path that leads out, is a link, overlaps another, or unpacks to too much. Make the zip again."""


class UnknownFolder(BadArchive):
    """A folder is not named after a class of the model. Class names are case-sensitive."""


class NoImages(BadArchive):
    """The zip has no file in a class folder. Put PNG or JPEG files into a folder for each class."""


class UnreadableImages(BadArchive):
    """Some files cannot be read as PNG or JPEG; the first twenty are named. Remove or convert them."""

    def __init__(self, names: list[str], total: int) -> None:
        self.names, self.total = names, total
        super().__init__(
            f"{total} of the files cannot be read as PNG or JPEG images: {', '.join(names)}"
            f"{', ...' if total > len(names) else ''}. Remove or convert them."
        )


@dataclass(frozen=True)
class Limits:
    """What an archive may ask of the machine."""

    entries: int = 1_000_000
    directory_bytes: int = 128 << 20
    image_bytes: int = 64 << 20
    total_bytes: int = 64 << 30
    packed_bytes: int = 16 << 30
    ratio: int = 100


@dataclass(frozen=True)
class ImageSet:
    """images: uint8 (N, C, H, W); labels: int64 (N,), class indices."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class _Entry:
    info: zipfile.ZipInfo
    label: int


@dataclass
class ImageArchive:
    """A checked archive. Raises `BadArchive` on construction; images are decoded only by `pack`."""

    file: BinaryIO
    classes: Sequence[str]
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        try:
            self._check_directory()
            self._zip = zipfile.ZipFile(self.file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, UnicodeDecodeError) as error:
            if isinstance(error, BadArchive):
                raise
            raise BadArchive(
                "this is no readable zip archive; send a zip with one folder of images for each class."
            ) from error
        files = [info for info in self._zip.infolist() if not info.is_dir()]
        self._check_safety(files)
        index = {name: number for number, name in enumerate(self.classes)}
        self._entries = [_Entry(info, self._label(info, index)) for info in files if not _is_ignored(info)]
        if not self._entries:
            raise NoImages("the archive has no images; put PNG or JPEG files into one folder for each class.")

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class that has any."""
        counts = Counter(entry.label for entry in self._entries)
        return {self.classes[label]: counts[label] for label in sorted(counts)}

    def packed_bytes(self, preprocessing: Preprocessing) -> int:
        """What the images need when they are packed, labels and header aside."""
        return len(self._entries) * preprocessing.channels * preprocessing.height * preprocessing.width

    def pack(self, preprocessing: Preprocessing, decoders: Decoders) -> Iterator[bytes]:
        """Yields a safetensors file with `images` (uint8, N C H W) and `labels` (int64, N), piece by piece.

        Images are converted to the network's channels and resized to its input. Raises `UnreadableImages` at the end.
        """
        count = len(self._entries)
        shape = [count, preprocessing.channels, preprocessing.height, preprocessing.width]
        image_bytes = self.packed_bytes(preprocessing)
        if image_bytes > self.limits.packed_bytes:
            raise UnsafeArchive(
                f"{count} images of {preprocessing.width} x {preprocessing.height} pixels make {image_bytes} bytes; "
                f"at most {self.limits.packed_bytes} are taken, so split the archive."
            )
        header = json.dumps(
            {
                "labels": {"dtype": "I64", "shape": [count], "data_offsets": [0, 8 * count]},
                "images": {"dtype": "U8", "shape": shape, "data_offsets": [8 * count, 8 * count + image_bytes]},
            }
        ).encode()
        header += b" " * (-len(header) % 8)
        yield len(header).to_bytes(8, "little") + header
        yield numpy.array([entry.label for entry in self._entries], dtype="<i8").tobytes()
        unreadable: list[str] = []
        failed = 0
        total_bytes = 0
        for entry in self._entries:
            content = self._read(entry.info)
            total_bytes += len(content)
            if total_bytes > self.limits.total_bytes:
                raise UnsafeArchive(f"the archive unpacks to over {self.limits.total_bytes} bytes.")
            try:
                pixels = decoders.decode(content, preprocessing)
            except UnreadableImage:
                failed += 1
                if len(unreadable) < MAX_NAMED:
                    unreadable.append(entry.info.filename[:200])
            else:
                yield pixels
        if failed:
            raise UnreadableImages(unreadable, failed)

    def _check_directory(self) -> None:
        """Before zipfile reads the whole directory into memory: how large does its end say that it is?"""
        end = zipfile._EndRecData(self.file)  # type: ignore[attr-defined]  # also reads the zip64 form
        if end is None:
            raise zipfile.BadZipFile
        entries, directory_bytes = max(end[3], end[4]), end[5]
        if entries > self.limits.entries or directory_bytes > self.limits.directory_bytes:
            raise UnsafeArchive(
                f"the archive has {entries} entries in a directory of {directory_bytes} bytes; "
                f"at most {self.limits.entries} in {self.limits.directory_bytes} are taken."
            )

    def _check_safety(self, files: list[zipfile.ZipInfo]) -> None:
        end, previous = 0, ""
        for info in sorted(files, key=lambda info: info.header_offset):
            name = info.filename[:200]
            path = PurePosixPath(info.filename)
            # zipfile cuts a name at a NUL byte and turns backslashes on Windows only: judge the name as it was stored.
            stored = info.orig_filename
            if path.is_absolute() or ".." in path.parts or set("\\\0") & set(stored) or _DRIVE.match(stored):
                raise UnsafeArchive(f"'{name}' is a path that could lead out of the archive; use class/image.png.")
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise UnsafeArchive(
                    f"'{name}' is a link or a device, not a file; put the image itself into the archive."
                )
            if not path.parts:
                raise BadArchive("an entry has no name; make the archive anew.")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise BadArchive(f"'{name}' is packed by another method than deflate; make the archive anew with it.")
            if info.flag_bits & 0x1:
                raise BadArchive(f"'{name}' is encrypted with a password; send the archive without one.")
            if info.file_size > self.limits.image_bytes:
                raise UnsafeArchive(
                    f"'{name}' has {info.file_size} bytes; an image may have {self.limits.image_bytes}."
                )
            if info.file_size > self.limits.ratio * max(info.compress_size, 1):
                raise UnsafeArchive(f"'{name}' unpacks to over {self.limits.ratio} times its size.")
            if info.header_offset < end:
                raise UnsafeArchive(f"'{name}' shares bytes with '{previous}'; make the archive anew.")
            end, previous = self._data_end(info), name
        if sum(info.file_size for info in files) > self.limits.total_bytes:
            raise UnsafeArchive(f"the archive unpacks to over {self.limits.total_bytes} bytes.")

    def _data_end(self, info: zipfile.ZipInfo) -> int:
        self.file.seek(info.header_offset)
        header = self.file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise BadArchive(f"'{info.filename[:200]}' has no local header; make the archive anew.")
        _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        return info.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes) + info.compress_size

    def _label(self, info: zipfile.ZipInfo, index: dict[str, int]) -> int:
        parts = PurePosixPath(info.filename).parts
        folder = parts[-2] if len(parts) > 1 else ""
        if folder not in index:
            known = ", ".join(f"'{name}'" for name in list(index)[:10]) + (", ..." if len(index) > 10 else "")
            raise UnknownFolder(
                f"'{info.filename[:200]}' is in the folder '{folder[:100]}', which is no class of the model; "
                f"folders are named after its classes {known} ({len(index)}). Class names are case-sensitive."
            )
        return index[folder]

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        try:
            with self._zip.open(info) as stream:
                content = stream.read(info.file_size + 1)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, zlib.error) as error:
            raise BadArchive(f"'{info.filename[:200]}' is damaged; make the archive anew.") from error
        if len(content) > info.file_size:
            raise UnsafeArchive(f"'{info.filename[:200]}' has more bytes than it declares.")
        return content


def load_packed(file: BinaryIO) -> ImageSet:
    """An image set from a file that `ImageArchive.pack` made, mapped into memory rather than read."""
    file.seek(0)
    header_bytes = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(header_bytes))

    def mapped(name: str, kind: str) -> Tensor:
        offset = 8 + header_bytes + header[name]["data_offsets"][0]
        return torch.from_numpy(numpy.memmap(file, kind, "c", offset, tuple(header[name]["shape"])))

    return ImageSet(mapped("images", "u1"), mapped("labels", "<i8"))


def _is_ignored(info: zipfile.ZipInfo) -> bool:
    """What file managers add: hidden files, macOS resource forks, Windows thumbnails."""
    parts = PurePosixPath(info.filename).parts
    return parts[-1].startswith(".") or parts[-1] == "Thumbs.db" or parts[0] in _IGNORED_PARTS
