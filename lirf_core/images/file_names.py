"""Names of files as operating systems write them into archives: encodings, separators, and files of their own."""

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from lirf_core import class_names

_SYSTEM_NAMES = {  # in small letters
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "picasa.ini",
    "icon\r",
    "icon\uf00d",
    "__macosx",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
    "@eadir",
    "#recycle",
    "#snapshot",
}
_UNICODE_PATH = 0x7075  # extra field of a zip entry (APPNOTE.TXT, 4.6.9)
# UTF-8 first, because hardly any other text is valid UTF-8. Then code page 437, which the format prescribes.
_ENCODINGS = ["utf-8", "cp437", "cp850", "cp1252", "cp866", "cp1251", "cp932", "gbk", "big5", "euc_kr"]
_UTF8 = 0x800  # flag of a zip entry (APPNOTE.TXT, 4.4.4)


def is_of_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or belongs to an operating system or a file manager."""
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM_NAMES


def possible_names(info: zipfile.ZipInfo) -> Iterator[str]:
    """The names that the entry may mean, the likeliest first, with `/` between folders.

    Without its flag a name has no encoding. Info-ZIP and macOS write UTF-8, Windows the code page of its country.
    """
    stored = info.orig_filename
    if info.flag_bits & _UTF8:
        yield stored.replace("\\", "/")
        return
    raw = stored.encode("cp437")  # as zipfile decoded it, without loss
    names = [_unicode_path(info.extra, raw)]
    for encoding in ["ascii"] if raw.isascii() else _ENCODINGS:
        try:
            names.append(raw.decode(encoding))
        except UnicodeDecodeError:
            continue
    yield from (name.replace("\\", "/") for name in names if name is not None)


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """The name in the extra field, if it belongs to this stored name."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and len(field) > 5 and field[:5] == struct.pack("<BI", 1, zlib.crc32(raw)):
            try:
                return field[5:].decode()
            except UnicodeDecodeError:
                return None
    return None


class ClassFolders:
    """Folders named after classes. A class whose name has a `/` is a folder in a folder: `T-shirt/top`."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._indices = class_names.indices(classes)
        self._depths = sorted({name.count("/") + 1 for name in self._indices}, reverse=True)

    def find(self, name: str) -> tuple[int | None, bool]:
        """The class whose folder the file is in, if any, and whether the file belongs to an operating system."""
        *folders, file = PurePosixPath(class_names.normal_form(name)).parts
        for depth in self._depths:  # of 'T-shirt/top' and 'top', the longer name wins
            label = self._indices.get("/".join(folders[-depth:])) if len(folders) >= depth else None
            if label is not None:
                return label, any(map(is_of_system, [*folders[:-depth], file]))
        return None, any(map(is_of_system, [*folders, file]))
