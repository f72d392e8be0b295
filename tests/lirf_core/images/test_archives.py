import gzip
import io
import stat
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import BinaryIO, cast

import numpy
import pytest
from PIL import Image

from lirf_core.images import archives
from lirf_core.images.archives import (
    BadArchive,
    ImageArchive,
    Limits,
    NoImages,
    UnknownFolder,
    UnreadableImages,
    UnsafeArchive,
)
from lirf_core.images.preprocessing import Preprocessing
from tests.lirf_core.images.test_decoding import DECODERS, SIZE, decompression_bomb, picture

CLASSES = ["cat", "dog"]


def zipped(
    entries: dict[str | zipfile.ZipInfo, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED
) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, content)
    file.seek(0)
    return file


def loaded(pieces: Iterable[bytes]) -> archives.ImageSet:
    with tempfile.TemporaryFile() as file:
        file.writelines(pieces)
        file.flush()
        return archives.load_packed(cast(BinaryIO, file))


def packed(file: io.BytesIO, **limits: int) -> archives.ImageSet:
    archive = ImageArchive(file, CLASSES, Limits(**limits))
    return loaded(archive.pack(SIZE, DECODERS))


def test_images_and_labels_are_unpacked_unchanged() -> None:
    file = zipped(
        {
            "cat/a.png": picture((1, 2, 3)),
            "deep/er/dog/b.png": picture((4, 5, 6)),
            "dog/c.jpg": picture((9, 9, 9), "JPEG", 20),
        }
    )
    image_set = packed(file)
    assert image_set.labels.tolist() == [0, 1, 1]
    assert image_set.images.shape == (3, 3, 8, 8)
    assert image_set.images[0, :, 0, 0].tolist() == [1, 2, 3]
    assert image_set.images[1, :, 7, 7].tolist() == [4, 5, 6]
    assert image_set.images[2].float().mean().item() == pytest.approx(9, abs=1)


def test_grey_networks_get_one_channel() -> None:
    archive = ImageArchive(zipped({"cat/a.png": picture((50, 50, 50))}), CLASSES)
    image_set = loaded(archive.pack(Preprocessing(4, 6, (0.5,), (0.5,)), DECODERS))
    assert image_set.images.shape == (1, 1, 4, 6)
    assert numpy.unique(image_set.images).tolist() == [50]


def test_files_that_file_managers_add_are_ignored() -> None:
    file = zipped(
        {
            "cat/a.png": picture(),
            "cat/.DS_Store": b"x",
            "__MACOSX/cat/._a.png": b"x",
            "dog/Thumbs.db": b"x",
            "dog/": b"",
            "dog/b.png": picture(),
        }
    )
    archive = ImageArchive(file, CLASSES)
    assert archive.counts == {"cat": 1, "dog": 1}


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("cat/link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def stored_name(name: str | bytes, extra: bytes = b"", content: bytes | None = None) -> io.BytesIO:
    """An archive with an entry name that zipfile would not write, without the flag for UTF-8."""
    raw = name if isinstance(name, bytes) else name.encode()
    placeholder = zipfile.ZipInfo("x" * len(raw))
    placeholder.extra = extra
    archive = zipped({placeholder: content or picture()}).getvalue()
    return io.BytesIO(archive.replace(placeholder.filename.encode(), raw))


def unicode_path(raw: bytes, name: str) -> bytes:
    """The extra field in which Info-ZIP and 7-Zip put the name as UTF-8, beside that of the code page."""
    field = struct.pack("<BI", 1, zlib.crc32(raw)) + name.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


def wrongly_flagged() -> bytes:
    return zipped({"\u00e9\u00e9/a.png": picture()}).getvalue().replace("\u00e9\u00e9".encode(), b"\xe9\xe9xx")


def black_frame() -> bytes:
    """A picture of which deflate makes a 500th, as a camera's of 24 megapixels with its cap on."""
    file = io.BytesIO()
    Image.new("RGB", (6000, 4000)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: io.BytesIO(b"not a zip"), BadArchive, "not a readable zip archive, but a text file"),
        (lambda: io.BytesIO(b"Rar!\x1a\7"), BadArchive, "but a RAR archive"),
        (lambda: io.BytesIO(gzip.compress(b"tar")), BadArchive, "but a gzip file"),
        (lambda: io.BytesIO(zipped({"cat/a.png": picture()}).getvalue()[:-30]), BadArchive, "zip archive: it was cut"),
        (lambda: io.BytesIO(wrongly_flagged()), BadArchive, "is marked as UTF-8 in the archive, but is not"),
        (lambda: zipped({}), NoImages, "no images"),
        (lambda: zipped({"cat/": b""}), NoImages, "no images"),
        (
            lambda: zipped({"bird/a.png": picture()}),
            UnknownFolder,
            r"folder 'bird', which is no class\. The model's classes are 'cat', 'dog' \(2\)",
        ),
        (lambda: zipped({"Cat/a.png": picture()}), UnknownFolder, "case-sensitive"),
        (lambda: zipped({"a.png": picture()}), UnknownFolder, "'a.png' is in no folder"),
        (lambda: stored_name("../cat/a.png"), UnsafeArchive, "could lead out"),
        (lambda: stored_name("/cat/a.png"), UnsafeArchive, "could lead out"),
        (lambda: stored_name("..\\cat\\a.png"), UnsafeArchive, "could lead out"),
        (lambda: stored_name("C:/cat/a.png"), UnsafeArchive, "could lead out"),
        (lambda: stored_name("cat/a.png\0/../../b"), UnsafeArchive, "could lead out"),
        (lambda: zipped({link(): b"/etc/passwd"}), UnsafeArchive, "is a link or a device"),
    ],
)
def test_bad_archives_are_refused_before_anything_is_unpacked(
    make: Callable[[], io.BytesIO], kind: type, message: str
) -> None:
    with pytest.raises(kind, match=message):
        ImageArchive(make(), CLASSES)


@pytest.mark.parametrize("folder", ["set/a:b", "a:b"])
def test_a_class_may_have_a_colon_in_its_name(folder: str) -> None:
    file = zipped({f"{folder}/1.png": picture()})
    assert ImageArchive(file, ["a:b", "c"]).counts == {"a:b": 1}


def test_a_class_with_a_slash_in_its_name_is_a_folder_in_a_folder() -> None:
    classes = ["T-shirt/top", "top", "a/b/c"]
    paths = ["T-shirt/top/1.png", "set/T-shirt/top/2.png", "top/3.png", "set/top/4.png", "a/b/c/5.png"]
    assert ImageArchive(zipped({path: picture() for path in paths}), classes).counts == {
        "T-shirt/top": 2,
        "top": 2,
        "a/b/c": 1,
    }
    assert ImageArchive(stored_name("T-shirt\\top\\1.png"), classes).counts == {"T-shirt/top": 1}
    folders = zipped({"T-shirt/": b"", "T-shirt/top/": b"", "T-shirt/top/1.png": picture()})
    assert ImageArchive(folders, ["T-shirt", "T-shirt/top"]).counts == {"T-shirt/top": 1}
    with pytest.raises(UnknownFolder, match=r"'b/c/1\.png' is in the folder 'b/c', which is no class"):
        ImageArchive(zipped({"b/c/1.png": picture()}), classes)


@pytest.mark.parametrize("label", ["caf\u00e9", "cafe\u0301"])
@pytest.mark.parametrize(
    "file",
    [
        lambda: zipped({"caf\u00e9/1.png": picture()}),
        lambda: zipped({"cafe\u0301/1.png": picture()}),
        lambda: stored_name("caf\u00e9/1.png"),
        lambda: stored_name("cafe\u0301/1.png"),
        lambda: stored_name("caf\u00e9\\1.png"),
        lambda: stored_name("caf\u00e9/1.png".encode("cp437")),
        lambda: stored_name("caf\u00e9/1.png".encode("cp1252")),
        lambda: stored_name("caf\u00e9/1.png".encode("gbk")),
        lambda: stored_name(b"caf?/1.png", unicode_path(b"caf?/1.png", "caf\u00e9/1.png")),
    ],
    ids=["flag", "flag, macOS", "Info-ZIP", "macOS", "backslash", "cp437", "cp1252", "gbk", "Unicode path"],
)
def test_a_folder_is_its_class_however_its_name_is_encoded(file: Callable[[], io.BytesIO], label: str) -> None:
    assert ImageArchive(file(), ["tea", label]).counts == {label: 1}


def test_the_extra_name_of_another_entry_is_not_used() -> None:
    with pytest.raises(UnknownFolder, match=r"'caf\?/1\.png'"):
        ImageArchive(stored_name(b"caf?/1.png", unicode_path(b"other", "cat/1.png")), CLASSES)
    with pytest.raises(UnsafeArchive, match="could lead out"):
        ImageArchive(stored_name(b"cat/1.png", unicode_path(b"cat/1.png", "../../1.png")), CLASSES)


def test_backslashes_part_folders() -> None:
    file = zipped({"set/cat/a.png": picture()}).getvalue()
    assert ImageArchive(io.BytesIO(file.replace(b"set/cat/a.png", b"set\\cat\\a.png")), CLASSES).counts == {"cat": 1}
    folder = zipped([("cat/", b""), ("cat/a.png", picture())]).getvalue()
    assert ImageArchive(io.BytesIO(folder.replace(b"cat/", b"cat\\")), CLASSES).counts == {"cat": 1}


@pytest.mark.parametrize(
    "name",
    [
        "desktop.ini",
        "cat/desktop.ini",
        "cat/Desktop.INI",
        "cat/thumbs.db",
        "cat/Thumbs.db",
        "cat/ehthumbs.db",
        "cat/Icon\r",
        "cat/.directory",
        "cat/~$notes.docx",
        ".git/objects/ab/cd",
        "set/.git/config",
        ".Spotlight-V100/store",
        "__MACOSX/cat/a.png",
        "set/__MACOSX/cat/._a.png",
        "cat/.thumbnails/a.png",
        "cat/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg",
        "$RECYCLE.BIN/S-1-5/a.png",
        "System Volume Information/x",
    ],
)
def test_files_of_operating_systems_are_skipped(name: str) -> None:
    assert ImageArchive(zipped({"cat/a.png": picture(), name: b"x"}), CLASSES).counts == {"cat": 1}


def test_a_class_may_be_named_like_a_hidden_folder() -> None:
    entries = {".net/a.png": picture(), ".git/a.png": picture(), ".net/.DS_Store": b"x"}
    assert ImageArchive(zipped(entries), [".net", "java"]).counts == {".net": 1}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cat/notes.txt", "cat/a.heic", "cat/labels.csv"])
def test_a_file_that_is_no_image_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnreadableImages, match=rf"1 file cannot be read .* '{name}': This is a text file"):
        packed(zipped({"cat/a.png": picture(), name: b"text"}))


@pytest.mark.parametrize("name", ["README.txt", "labels.csv"])
def test_a_file_outside_of_class_folders_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnknownFolder, match=f"'{name}' is in no folder"):
        ImageArchive(zipped({"cat/a.png": picture(), name: b"text"}), CLASSES)


def test_a_picture_that_deflate_makes_tiny_is_taken() -> None:
    frame = black_frame()
    file = zipped({f"cat/{number}.jpg": frame for number in range(20)}, zipfile.ZIP_DEFLATED)
    assert len(frame) * 20 > 100 * len(file.getvalue())
    assert packed(file).images.float().mean() == 0


def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked() -> None:
    file = zipped({f"cat/{number}.png": bytes(1_000_000) for number in range(20)}, zipfile.ZIP_DEFLATED)
    size = len(file.getvalue())
    with pytest.raises(UnsafeArchive, match=rf"has {size} bytes and unpacks to 20000000\. More than 1000000 bytes"):
        ImageArchive(file, CLASSES, Limits(free_bytes=1_000_000))
    ImageArchive(file, CLASSES, Limits(free_bytes=20_000_000))


def test_a_large_file_that_is_no_image_is_not_unpacked() -> None:
    content = bytearray(zipped({"cat/a.png": bytes(10_000_000)}, zipfile.ZIP_DEFLATED).getvalue())
    place = content.index(b"PK\1\2")
    content[place - 9] ^= 1  # near the end of the data, which only somebody who unpacks all of it notices
    with pytest.raises(UnreadableImages, match="a file of an unknown format"):
        packed(io.BytesIO(bytes(content)))


def test_a_zip_in_a_zip_is_named() -> None:
    inner = zipped({"cat/a.png": picture()}).getvalue()
    with pytest.raises(UnreadableImages, match=r"'cat/more\.zip': This is a zip archive"):
        packed(zipped({"cat/more.zip": inner}))


@pytest.mark.parametrize("name", [".", "./", "//"])
def test_an_entry_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(BadArchive):
        ImageArchive(zipped({name: picture()}), CLASSES)


def test_only_stored_and_deflated_entries_are_accepted() -> None:
    with pytest.raises(BadArchive, match="compressed with lzma"):
        ImageArchive(zipped({"cat/a.png": picture()}, zipfile.ZIP_LZMA), CLASSES)


def test_entries_that_share_bytes_are_refused() -> None:
    content = bytearray(zipped([("cat/a.png", picture()), ("cat/b.png", picture())]).getvalue())
    directory = content.find(b"PK\x01\x02")
    second = content.find(b"PK\x01\x02", directory + 4)
    content[second + 42 : second + 46] = content[directory + 42 : directory + 46]  # the first entry's offset
    with pytest.raises(UnsafeArchive, match="shares bytes with"):
        ImageArchive(io.BytesIO(bytes(content)), CLASSES)


def test_an_entry_that_unpacks_to_more_than_it_declares_is_refused() -> None:
    content = bytearray(zipped({"cat/a.png": bytes(range(256)) * 40}, zipfile.ZIP_DEFLATED).getvalue())
    directory = content.find(b"PK\x01\x02")
    for place in (22, directory + 24):  # declared size: in the local header and in the directory
        content[place : place + 4] = struct.pack("<I", 100)
    with pytest.raises(BadArchive):
        packed(io.BytesIO(bytes(content)))


def test_size_limits_are_enforced() -> None:
    file = zipped({"cat/a.png": picture(), "cat/b.png": picture()})
    with pytest.raises(UnsafeArchive, match="2 entries in a directory"):
        packed(file, entries=1)
    with pytest.raises(UnsafeArchive, match="the limit for an image is 10"):
        packed(file, image_bytes=10)
    with pytest.raises(UnsafeArchive, match=r"unpacks to 154 bytes; the limit is 100\."):
        packed(file, total_bytes=100)
    with pytest.raises(UnsafeArchive, match="2 images of 8 x 8 pixels need 384 bytes; the limit is 383"):
        packed(file, packed_bytes=383)
    with pytest.raises(UnsafeArchive, match="directory of 110 bytes; the limits are 1000000 entries and 100 bytes"):
        packed(file, directory_bytes=100)


def test_the_first_twenty_unreadable_images_are_named() -> None:
    gif = io.BytesIO()
    Image.new("P", (4, 4)).save(gif, "GIF")
    entries = {f"cat/{n:02}.png": b"no image" for n in range(21)} | {
        "dog/gif.png": gif.getvalue(),
        "dog/ok.png": picture(),
    }
    entries |= {"dog/bomb.png": decompression_bomb(), "dog/cut.png": picture(size=64)[:70]}
    with pytest.raises(UnreadableImages, match=r"24 files cannot be read .* 'cat/00\.png': This is a text") as caught:
        packed(zipped(entries))  # type: ignore[arg-type]
    assert len(caught.value.names) == 20
    assert caught.value.total == 24


@pytest.mark.parametrize("entry", ["dog/", "set/dog/", "dog\\", "dog/.DS_Store", "__MACOSX/dog/._a.png"])
def test_a_class_folder_without_images_is_refused_by_name(entry: str) -> None:
    with pytest.raises(NoImages, match="The folder of 'dog' has no images"):
        ImageArchive(zipped({"cat/a.png": picture((1, 2, 3)), entry: b""}), CLASSES)
    ImageArchive(zipped({"cat/a.png": picture((1, 2, 3)), "dog/a.png": picture((1, 2, 3)), entry: b""}), CLASSES)
