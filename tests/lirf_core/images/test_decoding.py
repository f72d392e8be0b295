"""Untrusted images, and the processes that decode them."""

import io
import os
import random
import signal
import struct
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy
import pytest
from PIL import Image, PngImagePlugin

from lirf_core.images.decoding import Decoders, GivenUp, ImageLimits, UnreadableImage
from lirf_core.images.preprocessing import Preprocessing

SIZE = Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DECODERS = Decoders()


def picture(colour: tuple[int, int, int] = (10, 20, 30), kind: str = "PNG", size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, kind)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, pixels: bytes = bytes(1000)) -> bytes:
    """A PNG whose header says this about itself."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def decompression_bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in about a hundred bytes."""
    return png(30_000, 30_000)


def jpeg_that_claims(width: int, height: int) -> bytes:
    content = bytearray(picture(kind="JPEG", size=16))
    frame = content.find(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def fits() -> bytes:
    """Four pixels in FITS, a format that Pillow would recognise by its content, whatever the name says."""
    cards = ("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 2", "NAXIS2  = 2", "END")
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)


def polyglot() -> bytes:
    """A zip archive after the header of a GIF."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", picture())
    return b"GIF89a" + file.getvalue()


def picture_in(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


HOSTILE = {
    "nothing": b"",
    "text": b"no image",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) (r) file\n",
    "fits": fits(),
    "polyglot": polyglot(),
    "bomb": decompression_bomb(),
    "no pixels": png(8, 0),
    "negative": png(2**31, 2**31),
    "depth of 7 bits": png(8, 8, depth=7),
    "jpeg of 65,500 x 65,500": jpeg_that_claims(65_500, 65_500),
    "jpeg without a frame": b"\xff\xd8\xff\xd9",
    "jpeg that never ends": b"\xff\xd8" + b"\xff\xe0\x00\x10" * 10_000,
    "cut": picture(size=64)[:70],
    **{
        kind: picture_in(kind) for kind in ("GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM", "TGA", "PCX", "SGI", "JPEG2000")
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_are_refused(name: str) -> None:
    with pytest.raises(UnreadableImage):
        DECODERS.decode(HOSTILE[name], SIZE)


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0), ("JPEG", 2)])
def test_an_image_is_decoded(kind: str, tolerance: int) -> None:
    pixels = DECODERS.tensor(picture((7, 80, 200), kind), SIZE)
    assert pixels.shape == (1, 3, 8, 8)
    assert numpy.abs(pixels[0, :, 3, 3].numpy() - numpy.array([7, 80, 200])).max() <= tolerance


def test_images_get_the_networks_channels_and_size() -> None:
    pixels = numpy.arange(6 * 4, dtype=numpy.uint8).reshape(6, 4) * 10
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    grey = DECODERS.decode(file.getvalue(), Preprocessing(6, 4, (0.5,), (0.5,)))
    assert numpy.frombuffer(grey, numpy.uint8).reshape(6, 4).tolist() == pixels.tolist()
    colours = DECODERS.tensor(file.getvalue(), Preprocessing(6, 4, (0.5,) * 3, (0.5,) * 3))
    assert all((colours[0, channel].numpy() == pixels).all() for channel in range(3))


def damaged_image(chance: random.Random) -> bytes:
    content = bytearray(picture(kind=chance.choice(["PNG", "JPEG"]), size=32))
    for _ in range(chance.randint(1, 20)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content[: chance.randint(1, len(content))])


def test_damaged_images_are_decoded_or_refused_and_the_next_one_is_decoded() -> None:
    chance = random.Random(0)
    for _ in range(300):
        with suppress(UnreadableImage):
            assert len(DECODERS.decode(damaged_image(chance), SIZE)) == 3 * 8 * 8
    assert DECODERS.decode(picture((1, 2, 3)), SIZE)[:64] == bytes([1] * 64)


def test_concurrent_requests_get_their_own_images() -> None:
    def decoded(number: int) -> bytes:
        return DECODERS.decode(picture((number, 0, 0)), SIZE)[:64]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(decoded, range(100))) == [bytes([number] * 64) for number in range(100)]


def children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def single_decoder() -> tuple[Decoders, int]:
    """Decoders with one process, and its id."""
    before, decoders = children(), Decoders(at_most=1)
    decoders.decode(picture(), SIZE)
    (pid,) = children() - before
    return decoders, pid


def test_an_image_that_takes_too_long_is_refused_and_the_next_one_is_decoded() -> None:
    decoders = Decoders(ImageLimits(seconds=0.05), at_most=1)
    large = io.BytesIO()
    Image.effect_noise((5600, 5600), 100).save(large, "PNG", compress_level=1)
    with pytest.raises(UnreadableImage, match=r"takes more than 0\.05 seconds to decode"):
        decoders.decode(large.getvalue(), SIZE)
    assert decoders.decode(picture(), SIZE)
    assert DECODERS.decode(large.getvalue(), SIZE)
    decoders.close()


def test_a_killed_decoder_is_replaced() -> None:
    decoders, pid = single_decoder()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert decoders.decode(picture(), SIZE)
    decoders.close()


def test_a_decoder_has_no_secrets_no_files_and_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIRF_SECRET", "canary")
    decoders, pid = single_decoder()
    process = Path(f"/proc/{pid}")
    assert b"canary" not in (process / "environ").read_bytes()
    limits = {line[:26].strip(): line[26:].split()[0] for line in (process / "limits").read_text().splitlines()[1:]}
    assert limits["Max address space"] == str(448 << 20)
    assert [limits[name] for name in ("Max open files", "Max processes", "Max file size")] == ["0"] * 3
    open_files = {str(file.readlink()).partition(":")[0] for file in (process / "fd").iterdir()}
    assert open_files == {"socket", "/dev/null"}
    decoders.close()


def test_closing_the_decoders_ends_their_processes() -> None:
    decoders, pid = single_decoder()
    decoders.close()
    assert pid not in children()


def test_text_in_a_file_is_not_returned_as_pixels() -> None:
    """The answer has only the pixels that the header announces, whatever else the file contains."""
    file, notes = io.BytesIO(), PngImagePlugin.PngInfo()
    notes.add_text("comment", "x" * 1000)
    Image.new("RGB", (8, 8), (5, 6, 7)).save(file, "PNG", pnginfo=notes)
    assert DECODERS.decode(file.getvalue(), SIZE) == bytes([5] * 64 + [6] * 64 + [7] * 64)


def test_a_decoder_ends_when_nobody_waits_for_its_image_any_more() -> None:
    decoders, given_up = Decoders(ImageLimits(seconds=60)), GivenUp()
    slow = png(8000, 12_000, 8, bytes(12_000 * 8001))  # takes a second or so
    with ThreadPoolExecutor(1) as pool:
        decoding = pool.submit(decoders.decode, slow, SIZE, given_up)
        time.sleep(0.1)
        given_up.set()
        with pytest.raises(UnreadableImage, match=r"decoder ended|Nobody waits"):
            decoding.result()
    with pytest.raises(UnreadableImage, match="Nobody waits"):
        decoders.decode(picture(), SIZE, given_up)
    assert decoders.decode(picture(), SIZE, GivenUp())[:3] == bytes([10] * 3)
    decoders.close()
