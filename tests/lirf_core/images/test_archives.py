import io
import stat
import struct
import tempfile
import warnings
import zipfile
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
        }
    )
    archive = ImageArchive(file, CLASSES)
    assert archive.counts == {"cat": 1}


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("cat/link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def stored_name(name: str) -> io.BytesIO:
    """An archive with an entry name that zipfile would not write."""
    placeholder = "x" * len(name)
    content = zipped({placeholder: picture()}).getvalue()
    return io.BytesIO(content.replace(placeholder.encode(), name.encode()))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: io.BytesIO(b"not a zip"), BadArchive, "not a readable zip"),
        (lambda: io.BytesIO(zipped({"cat/a.png": picture()}).getvalue()[:-30]), BadArchive, "not a readable zip"),
        (lambda: zipped({}), NoImages, "no images"),
        (lambda: zipped({"cat/": b""}), NoImages, "no images"),
        (
            lambda: zipped({"bird/a.png": picture()}),
            UnknownFolder,
            r"folder 'bird', but the model has no such class\. Its classes are 'cat', 'dog' \(2\)",
        ),
        (lambda: zipped({"Cat/a.png": picture()}), UnknownFolder, "case-sensitive"),
        (lambda: zipped({"a.png": picture()}), UnknownFolder, "is in the folder ''"),
        (lambda: stored_name("../cat/a.png"), UnsafeArchive, "could lead out"),
        (lambda: stored_name("/cat/a.png"), UnsafeArchive, "could lead out"),
        (lambda: stored_name("..\\cat\\a.png"), UnsafeArchive, "could lead out"),
        (lambda: stored_name("C:/cat/a.png"), UnsafeArchive, "could lead out"),
        (lambda: stored_name("cat/a.png\0/../../b"), UnsafeArchive, "could lead out"),
        (lambda: zipped({link(): b"/etc/passwd"}), UnsafeArchive, "is a link or a device"),
        (lambda: zipped({"cat/a.png": bytes(10**7)}, zipfile.ZIP_DEFLATED), UnsafeArchive, "more than 100 times"),
    ],
)
def test_bad_archives_are_refused_before_anything_is_unpacked(
    make: Callable[[], io.BytesIO], kind: type, message: str
) -> None:
    with pytest.raises(kind, match=message):
        ImageArchive(make(), CLASSES)


def test_a_class_may_have_a_colon_in_its_name() -> None:
    file = zipped({"set/a:b/1.png": picture()})
    assert ImageArchive(file, ["a:b", "c"]).counts == {"a:b": 1}


@pytest.mark.parametrize("name", [".", "./", "//"])
def test_an_entry_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(BadArchive):
        ImageArchive(zipped({name: picture()}), CLASSES)


def test_only_stored_and_deflated_entries_are_accepted() -> None:
    with pytest.raises(BadArchive, match="not with deflate"):
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
    with pytest.raises(UnsafeArchive, match="unpacks to more than 100 bytes"):
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
